"""docs/protocol.md in Python: the drawing and ordering in NumPy, the training in PyTorch."""
