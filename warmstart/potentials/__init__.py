"""Potentials in JAX: functions, their gradients, and the steps of learning one; imported when one is at hand."""
