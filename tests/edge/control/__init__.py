"""Tests of edge.control."""
