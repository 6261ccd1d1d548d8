"""Dynamic sparse training for PyTorch with a native core."""
