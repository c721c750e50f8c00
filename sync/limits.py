"""Every bound of the protocol, with its unit in its name. Nothing here is tunable: both sides must agree on them."""

from __future__ import annotations

SEGMENT_SEALED_BYTES_MAX = 1 << 20
SEGMENT_OPENED_BYTES_MAX = 8 << 20
# What the columns of one opened segment may expand to in memory, as FORMAT.md counts it: repeated words and constants
# cost next to nothing on the wire.
SEGMENT_EXPANDED_BYTES_MAX = 64 << 20
SEGMENT_CONTAINERS_MAX = 1 << 20
SEGMENT_OPERATIONS_MAX = 65_536
CLEAR_META_BYTES_MAX = 4096
OPERATION_BYTES_MAX = 256 << 10
KEY_BYTES_MAX = 512
COLLECTION_NAME_BYTES_MAX = 64
FIELD_NAME_BYTES_MAX = 64
FIELDS_MAX = 256
# A put names the fields that it clears, too, and a record may have gathered fields by patches from several devices.
OPERATION_FIELDS_MAX = 4096
VALUE_DEPTH_MAX = 16
VALUE_ITEMS_MAX = 65_536
VECTOR_DIMENSIONS_MAX = 8192
SET_ELEMENTS_MAX = 4096
INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1
JSON_INT_MAX = (1 << 53) - 1  # the largest that every reader of JSON reads as what it is
STAMP_MAX = (1 << 63) - 1
FUTURE_MS_MAX = 120_000
MESSAGE_BYTES_MAX = 4 << 20
BODY_BYTES_MAX = 1 << 30
BODY_PART_BYTES = 1 << 20  # of all parts of a body but its last
BODY_NAMES_MAX = 64  # that are asked for at once
PAGE_OPERATIONS_MAX = 10_000
RETRY_AFTER_MS_MAX = 600_000
NONCE_MAX = (1 << 47) - 1
LONG_POLL_MS_MAX = 30_000
# What is signed (ADR 23), each before it is parsed.
ROOT_BYTES_MAX = 64 << 10
ROOTS_MAX = 32  # in one answer; more take more answers
TIMESTAMP_BYTES_MAX = 8 << 10
SNAPSHOT_BYTES_MAX = 64 << 10
ROLE_BYTES_MAX = 1 << 20
ROLES_MAX = 64  # that are delegated to
ROLES_BYTES_MAX = 3 << 20  # of all roles of targets: one answer has them
TRUST_KEYS_MAX = 64  # of one file: each may cost a verification
ASSIGNMENT_BYTES_MAX = 128 << 10
ASSIGNED_MODELS_MAX = 64
TARGET_BYTES_MAX = 4 << 20
REPORT_BYTES_MAX = 64 << 10
AHEAD_MAX = 1_000_000  # numbers that a device has seen, and a restored control plane has not: so far it is believed
ASSIGNMENT_SIGNATURE_BYTES_MAX = 8 * 64  # of so many keys
FETCHED_RECORDS_MAX = 500  # places of one request for single records
