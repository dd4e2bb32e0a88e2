"""Every error Undertone raises on purpose.

    UndertoneError
    |-- InputError                 exit 2: something a person wrote or pointed at is wrong
    |   |-- StudyError             STUDY.toml: a key, a value, a combination
    |   |-- DataError              images, metadata, units
    |   |-- ModelError             the base model: missing parts, wrong files
    |   |-- FolderError            RUN, RELEASE or output folders
    |   |-- NotInstalled           a library that a command needs; says which extra brings it
    |   |-- NotConnected           a coordinator does not take this site's SuperNode
    |   `-- SuperLinkUnreachable   Flower's server does not answer, or does not do what it was asked
    `-- Refused                    exit 3: going on would weaken the guarantee
        |-- NoisyRelease           the release would be mostly noise
        |-- FaintRelease           the release could not move far enough from the base to be seen
        |-- UnmovedRelease         samples before and after are the same: nothing would be released but the base
        |-- NotApproved            the site has not approved this plan, coordinator or package
        |-- PlanChanged            the plan is not the one that was signed or started
        |   `-- DirectionsDiffer   the public directions made here are not those that the plan was made with
        |-- TimingRevealed         how long a site takes would tell what the plan's claim takes as secret
        |-- UnderstatedClaim       the plan claims a lower epsilon than its mechanism gives
        |-- TooFewSites            fewer sites answered than the plan needs
        |   `-- AttemptVoid        the sites of the study's list did not all answer; another attempt may follow
        |-- UnitChanged            a data set's units would be counted in another way than was fixed for life
        |-- DataSetMoved           a data set's file names another place than its plans were approved with
        |-- SharedRecords          a data set shares units or files with another one of its site
        |-- MechanismViolation     a bound, a type or a noise level is not what the plan says
        |-- ProtocolError          a message is malformed, or speaks another version
        |-- ReplayedAttempt        this (study, round, attempt) was charged or answered before
        |-- NotPrepared            the rows of this attempt are not ready, or a node that restarted does not know it
        |-- NodeUnavailable        a site's relay cannot reach its node
        |-- BudgetExceeded         a plan's attempts or a data set's cap are used up
        |-- LedgerCorrupt          the ledger's chain is broken, or it was restored from an old copy
        |   `-- LedgerRestored     a site's ledger is an older copy than one that has answered before
        |-- OlderCopy              a site's index or tombstones are not those that its ledger entered last
        |-- LedgerUnavailable      the ledger cannot be read or written now (locked, disk full)
        |-- AuditLogCorrupt        the audit log's chain is broken, or it lacks the line that somebody kept
        |-- NotVerified            a release is not what its statement says
        |   |-- UnfitWeights       its weights are not what the plan releases: names, shapes, float32, finite
        |   `-- UnfitStart         it is not the release that a plan starts from, or does not verify
        |-- AncestorNotCharged     a start counted this site's images, and its ledger lacks those charges
        `-- SecureAggregationError masks or shares cannot be trusted; the session ended, nothing was revealed
            |-- UnfaithfulCoordinator  the coordinator's message is not what was agreed, or not what others saw
            |-- SurvivorsChanged   a survivor list does not follow the one that was signed last in this study
            `-- UnfaithfulSite     a site's keys, shares or secrets are not what it committed to

Beside the tree stands `undertone_origin.ModuleTaken`: it is raised where this very file might be another project's.

A message says what is wrong, where, and what to do next. A message that leaves a site never
depends on a record (PRIVACY 17).
"""


class UndertoneError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(UndertoneError):
    """Something a person wrote or pointed at is wrong."""

    exit_code = 2


class StudyError(InputError):
    """A key, a value or a combination in STUDY.toml."""


class DataError(InputError):
    """Images, metadata or units."""


class ModelError(InputError):
    """The base model lacks a part or is not what it claims."""


class FolderError(InputError):
    """A RUN, RELEASE or output folder."""


class NotInstalled(InputError):
    """A library that a command needs is not installed here."""


class NotConnected(InputError):
    """A coordinator does not take this site's SuperNode."""


class SuperLinkUnreachable(InputError):
    """Flower's server on this machine does not answer, or does not do what it was asked."""


class Refused(UndertoneError):
    """Going on would weaken the guarantee."""

    exit_code = 3


class NoisyRelease(Refused):
    """The release would be mostly noise."""


class FaintRelease(Refused):
    """The release could not move far enough from the base to be seen."""


class UnmovedRelease(Refused):
    """Samples of the same seeds before and after are the same: the study moved nothing that can be seen."""


class NotApproved(Refused):
    """The site has not approved this plan, coordinator or package."""


class PlanChanged(Refused):
    """The plan is not the one that was signed or started."""


class DirectionsDiffer(PlanChanged):
    """The public directions that this machine makes are not those that the plan was made with (PRIVACY 25)."""


class TimingRevealed(Refused):
    """How long a site takes would tell the coordinator how many units it drew, which the claim takes as secret."""


class UnderstatedClaim(Refused):
    """The plan claims a lower epsilon than its mechanism gives."""


class TooFewSites(Refused):
    """Fewer sites answered than the plan needs."""


class AttemptVoid(TooFewSites):
    """Vectors left and their sum was not opened: the attempt counts, and another may follow."""


class UnitChanged(Refused):
    """A study, or a data set's file, counts its units in another way than was fixed when it was added (PRIVACY 13)."""


class DataSetMoved(Refused):
    """A data set's file names another folder or metadata file than the one that a plan's records were approved with."""


class SharedRecords(Refused):
    """A data set shares units or files with another one of its site: they would be counted twice (PRIVACY 13)."""


class MechanismViolation(Refused):
    """A bound, a type or a noise level is not what the plan says."""


class ProtocolError(Refused):
    """A message is malformed, or speaks another version."""


class ReplayedAttempt(Refused):
    """This (study, round, attempt) was charged or answered before."""


class NotPrepared(Refused):
    """The rows of this attempt are not ready yet, or this node, restarted, does not know it: prepare it (again)."""


class NodeUnavailable(Refused):
    """A site's relay cannot reach its node, or got no answer that can be read."""


class BudgetExceeded(Refused):
    """A plan's attempts, or the cap of a data set, are used up."""


class LedgerCorrupt(Refused):
    """The ledger's chain is broken, or it was restored from an old copy."""


class LedgerRestored(LedgerCorrupt):
    """A site's ledger is an older copy than one that has answered before."""


class OlderCopy(Refused):
    """A site's index of units, or its tombstones, are not the version that its ledger entered last."""


class LedgerUnavailable(Refused):
    """The ledger cannot be read or written now."""


class AuditLogCorrupt(Refused):
    """The audit log's chain is broken, or it lacks the line that somebody kept."""


class NotVerified(Refused):
    """A release is not what its statement says."""


class UnfitWeights(NotVerified):
    """A release's weights are not what its plan releases, or do not fit the base."""


class UnfitStart(NotVerified):
    """A release that a study would start from does not verify, or is not the one that the plan pins (PRIVACY 25)."""


class AncestorNotCharged(Refused):
    """A start was made with this site's images, by what it says, and the site's ledger lacks those charges."""


class SecureAggregationError(Refused):
    """Masks or shares cannot be trusted; the session ended and nothing was revealed.

    `blamed` is the site whose message was wrong, where it can be told whose; else empty.
    """

    def __init__(self, message: str, blamed: str = "") -> None:
        super().__init__(message)
        self.blamed = blamed


class UnfaithfulCoordinator(SecureAggregationError):
    """The coordinator's message is not what was agreed, or not what other sites saw."""


class SurvivorsChanged(SecureAggregationError):
    """A survivor list does not follow the one that was signed last in this study: two sums could be subtracted."""


class UnfaithfulSite(SecureAggregationError):
    """A site's keys, shares or secrets are not what it committed to."""
