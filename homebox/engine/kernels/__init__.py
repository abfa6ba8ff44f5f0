"""Regions of a graph as linear IR for CPUs."""
