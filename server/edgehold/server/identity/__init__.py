"""Who is who: the certificate authority, tokens, the roster."""
