"""From segments to the feed and back: acceptance, conflicts, pages."""
