"""What a run will cost before it starts: counts from today's code, times from measured constants, the first limit."""
