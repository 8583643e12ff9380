"""The images: what datasets there are, where they come from, and how they lie in memory."""
