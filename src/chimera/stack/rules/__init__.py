"""How one kind of layer runs with a member axis."""
