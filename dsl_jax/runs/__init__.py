"""A run: its steps, its folder, and what is compared at its end."""
