"""What a network is, the convolutional one, and how a network becomes stages for search."""
