"""What a run did, on one page: reads a run folder, writes one HTML file."""
