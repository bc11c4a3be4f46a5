"""Failures of the identity sampler; no message ever carries a code."""


class IdentityError(Exception):
    """Something about replacement identities went wrong; the caller must redact or withhold."""


class IdentityCodeError(IdentityError, ValueError):
    """A code has the wrong shape, is not finite, or is not on the unit sphere."""


class ManifoldFitError(IdentityError, ValueError):
    """The bank of codes is too small or too degenerate to describe a manifold."""


class GalleryTooLargeError(IdentityError):
    """One more enrolled identity would make an innocent collision too likely."""


class PreviewError(IdentityError):
    """A preview left out an oracle, or returned something that is not a similarity."""


class PseudonymKeyError(IdentityError, ValueError):
    """The pseudonym key is too short or obviously not random."""


class PseudonymBookError(IdentityError):
    """The pseudonym book on disk is unreadable, or contradicts itself."""


class SubjectTableError(IdentityError, ValueError):
    """The subject table on disk is unreadable, changed or of another key, or it cannot hold what it is given."""
