"""Tests of cloud.fleet."""
