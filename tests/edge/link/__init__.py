"""Tests of edge.link."""
