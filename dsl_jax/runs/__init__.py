"""A run: its steps, its folder, what is compared at its end, what it costs."""
