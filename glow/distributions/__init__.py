"""Distributions: their interface, the bases of flows, and densities in the plane with known figures."""
