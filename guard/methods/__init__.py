"""The base methods, a folder for each family."""
