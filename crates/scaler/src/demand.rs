//! What the node agents tell: which Service was called, how often, and when last.
