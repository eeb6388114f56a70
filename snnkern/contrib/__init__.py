"""What needs a large library of its own."""
