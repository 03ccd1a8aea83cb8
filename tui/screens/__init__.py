"""What the console shows, one module for each screen."""
