"""Distributions: their interface, integers as reals, the bases of flows, and densities in the plane with known figures."""
