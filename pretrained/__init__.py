"""The shipped models: one FAMILY-SOLVER.safetensors each, read through `warmstart.pretrained(name)`."""
