"""Words that others own: claims, results, opaque configs, feature gates."""
