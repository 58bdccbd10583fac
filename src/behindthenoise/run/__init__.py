"""One module per verb of the command line: io reads, core computes, io writes."""
