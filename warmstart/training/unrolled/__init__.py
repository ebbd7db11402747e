"""Training through a solver's own steps: its iteration as a JAX map, losses after k of them, and a fit on those."""
