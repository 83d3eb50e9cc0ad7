"""What a fitted model says about each row, of the data that it was fitted to and of new ones."""
