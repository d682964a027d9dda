"""Tests of the EXL2 format."""
