"""Every error that AgentDB Edge raises, in one tree.

::

    AgentDBError
    ├── InputError              the caller gave something that cannot be accepted; nothing changed
    │   ├── InvalidValue        a key, field or value is malformed
    │   ├── TooLarge            a bound was exceeded
    │   ├── SchemaMismatch      the value or declaration contradicts the collection's schema
    │   ├── UnknownCollection   no such collection has been declared
    │   ├── NotFound            no such record, device, conflict, baseline …
    │   ├── StaleWrite          what the caller had read is not the newest any more
    │   ├── Erased              what it belongs to was erased, and is shut
    │   ├── ReadOnly            the store was opened for reading
    │   ├── InvalidFilter       a filter expression that is not understood
    │   ├── InvalidConfig       a configuration file or option that is not understood
    │   ├── InvalidPolicy       a policy that is not understood, or not by this build
    │   ├── NotAllowed          the policy does not allow this, here or to this agent
    │   └── NotHere             by the policy it has left this device, and what is to be done depends on it
    ├── DataError               bytes from outside are not what they claim to be; nothing changed
    │   ├── Malformed           wrong structure, lengths, limits
    │   ├── BadSignature        unknown signer or wrong signature
    │   ├── BrokenChain         does not continue what is held (replayed, reordered, gapped)
    │   ├── DecryptionFailed    wrong key or altered ciphertext
    │   ├── UnsupportedVersion  a format or protocol version that this build does not speak
    │   ├── FutureStamp         stamped further ahead than the clock bound allows
    │   └── Untrusted           not signed by those who must, older than what is held, or for another fleet or device
    │       └── Expired         it was, and is past its time: nothing new by it, what runs goes on
    ├── StorageError            the disk or the database under us failed
    │   ├── DiskFull
    │   ├── StoreLocked         another process holds the store, or somebody uses a model's files
    │   ├── QuotaExceeded       the store's own quota is reached, and nothing may go
    │   └── CorruptStore        what is on disk fails its checks and cannot be rebuilt from here
    └── SyncError               the other side of a connection
        ├── Unreachable         no answer in time; try again
        ├── ProtocolError       an answer that no correct peer gives
        ├── Unauthenticated     the request's signature, nonce or token was not accepted
        │   └── StaleNonce      the nonce was used before: the store is a copy, or was restored
        ├── Refused             understood, and denied
        ├── Deferred            the link's class or budget does not let it go now; it goes later by itself
        └── BodyNotHere         an attachment's bytes are not on this device, and could not be fetched

``code`` is stable and machine-readable, ``hint`` says what to do, ``retryable`` says whether the same call may succeed
later without anybody changing anything.
"""

from __future__ import annotations


class AgentDBError(Exception):
    """Base of all. ``str(error)`` is one sentence for a person; ``hint`` the next step, or ''."""

    code = "error"
    retryable = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(cls: type[AgentDBError], message: str, hint: str) -> AgentDBError:
    return cls(message, hint=hint)


class InputError(AgentDBError):
    code = "input"


class InvalidValue(InputError):
    code = "invalid-value"


class TooLarge(InputError):
    code = "too-large"


class SchemaMismatch(InputError):
    code = "schema-mismatch"


class UnknownCollection(InputError):
    code = "unknown-collection"


class NotFound(InputError):
    code = "not-found"


class StaleWrite(InputError):
    code = "stale-write"


class Erased(InputError):
    code = "erased"


class ReadOnly(InputError):
    code = "read-only"


class InvalidFilter(InputError):
    code = "invalid-filter"


class InvalidConfig(InputError):
    code = "invalid-config"


class InvalidPolicy(InputError):
    code = "invalid-policy"


class NotAllowed(InputError):
    code = "not-allowed"


class NotHere(InputError):
    code = "not-here"
    retryable = True


class DataError(AgentDBError):
    code = "data"


class Malformed(DataError):
    code = "malformed"


class BadSignature(DataError):
    code = "bad-signature"


class BrokenChain(DataError):
    code = "broken-chain"


class DecryptionFailed(DataError):
    code = "decryption-failed"


class UnsupportedVersion(DataError):
    code = "unsupported-version"


class FutureStamp(DataError):
    code = "future-stamp"


class Untrusted(DataError):
    """The message names the role, or says that it is the assignment."""

    code = "untrusted"


class Expired(Untrusted):
    code = "expired"


class StorageError(AgentDBError):
    code = "storage"


class DiskFull(StorageError):
    code = "disk-full"
    retryable = True


class StoreLocked(StorageError):
    code = "store-locked"
    retryable = True


class QuotaExceeded(StorageError):
    code = "quota-exceeded"


class CorruptStore(StorageError):
    code = "corrupt-store"


class SyncError(AgentDBError):
    code = "sync"


class Unreachable(SyncError):
    code = "unreachable"
    retryable = True


class ProtocolError(SyncError):
    code = "protocol"


class Unauthenticated(SyncError):
    code = "unauthenticated"


class StaleNonce(Unauthenticated):
    """``largest``: the largest nonce that was used, 0 if it is not known. The next request has to use a larger one."""

    code = "stale-nonce"
    retryable = True
    largest = 0


class Refused(SyncError):
    code = "refused"


class Deferred(SyncError):
    code = "deferred"
    retryable = True


class BodyNotHere(SyncError):
    code = "body-not-here"
    retryable = True


def by_code(code: str) -> type[AgentDBError]:
    """The class of this module whose ``code`` this is; ``SyncError`` for one that no peer of this version sends."""
    found: list[type[AgentDBError]] = [AgentDBError]
    for cls in found:
        if cls.code == code:
            return cls
        found.extend(sub for sub in cls.__subclasses__() if sub.__module__ == __name__)
    return SyncError
