"""What the vectors hold, and how they are written and compared."""
