"""Kernels written as vector code and compiled by LLVM for the scores asked for."""
