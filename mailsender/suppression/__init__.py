"""Addresses to which nothing is sent: the list, what adds to it, and what a letter loses by it."""
