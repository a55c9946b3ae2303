"""Who is who: the authority, tokens, enrolment and renewal, the roster."""
