"""An events company's legacy application, a receiver, the hub project between them, and the demo of all three."""
