"""From raw footage to clips: changes of shot, segments, near-duplicates, warnings about pictures, captions; no torch."""
