"""Reinforcement learning in NumPy: two small networks and the agent that learns with them; it knows nothing of layers or Caffe."""
