"""Who calls: from the credential of a request to a caller.

``Authenticator`` knows the rules and no web framework: it is given the Authorization header and the session cookie as
texts, and answers with a ``Caller`` or raises Unauthorized with a sentence that says which check failed. Nothing about
keys and sessions is remembered here: each request looks its credential up by a unique index, so a deletion counts at
once on every instance.
"""

from assay.auth.checks import ANYONE, Authenticator, Caller

__all__ = ["ANYONE", "Authenticator", "Caller"]
