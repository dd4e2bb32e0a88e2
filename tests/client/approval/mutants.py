"""Take one check out of approval, see its test turn red: `python -m tests.client.approval.mutants [WORD]`.

Each mutant names the test that guards it. Not collected by pytest: it takes minutes.
"""

import sys

from tests.support.mutants import run_mutants

APPROVAL, SITE = "client/undertone_client/approval", "client/undertone_client/site"
APPROVING, PENDING = "client/approval/test_approving.py", "client/approval/test_pending.py"
POLICY, PAGE, COMMANDS = "client/site/test_policy.py", "client/approval/test_page.py", "cli/test_node_plans.py"
_TIGHTENED = f"{APPROVING}::test_a_policy_that_was_tightened_stops_an_approved_plan"
_WRONG = f"{APPROVING}::test_what_is_wrong_is_found_before_a_person_is_asked"
_NAMED = f"{POLICY}::test_what_the_policy_does_not_allow_is_named"

# (check, file, text that must be there once, what takes its place, the test that turns red)
MUTANTS: list[tuple[str, str, str, str, str]] = [
    # The policy
    ("methods", f"{SITE}/violations.py", "if plan.method.name not in policy.methods:", "if False:", _NAMED),
    ("models", f"{SITE}/violations.py", "if model not in policy.models:", "if False:", _NAMED),
    ("noise", f"{SITE}/violations.py", "if noise not in policy.noise:", "if False:", _NAMED),
    ("largest p", f"{SITE}/violations.py", "largest > rate", "False", _NAMED),
    ("largest T", f"{SITE}/violations.py", "privacy.max_attempts > sums", "privacy.rounds > sums", _NAMED),
    ("fewest sites", f"{SITE}/violations.py", "plan.quorum < policy.fewest_sites", "False", _NAMED),
    (
        "sites of the smallest sum",
        f"{SITE}/violations.py",
        "plan.quorum < policy.fewest_sites",
        "len(plan.cohort.units) < policy.fewest_sites",
        _NAMED,
    ),
    ("fewest patients", f"{SITE}/violations.py", "patients < policy.fewest_patients", "False", _NAMED),
    ("images are no patients", f"{SITE}/violations.py", 'units if unit == "patient" else 0', "units", _NAMED),
    ("t - c", f"{SITE}/violations.py", "plan.noise_shares < policy.fewest_honest_shares", "False", _NAMED),
    ("free rosters", f"{SITE}/violations.py", "plan.free_rosters and not policy.allow_free_rosters", "False", _NAMED),
    (
        "plain",
        f"{SITE}/violations.py",
        'plan.aggregation.mode == "plain" and not policy.allow_plain',
        "False",
        _NAMED,
    ),
    (
        "figures that nobody published",
        f"{SITE}/violations.py",
        'if one is not None and one.cohort.units_origin != "published":',
        "if False:",
        _NAMED,
    ),
    (
        "figures of the study that it starts from",
        f"{SITE}/violations.py",
        '(ancestor, f"the figures',
        '(None, f"the figures',
        "client/site/test_policy.py::test_figures_of_the_study_that_it_starts_from_count_too",
    ),
    (
        "absent is refused",
        f"{SITE}/violations.py",
        "rate is None or largest > rate",
        "rate is not None and largest > rate",
        f"{POLICY}::test_an_empty_policy_allows_nothing_of_a_plan",
    ),
    (
        "one key, one name",
        f"{SITE}/policy.py",
        "if len(set(keys)) < len(keys):",
        "if False:",
        f"{POLICY}::test_one_key_under_two_names_is_refused",
    ),
    (
        "signed by a known coordinator",
        f"{SITE}/policy.py",
        "                continue\n",
        "                pass\n",
        f"{POLICY}::test_each_of_several_coordinators_is_known_by_its_own_key",
    ),
    ("violations end an approval", f"{APPROVAL}/checks.py", "    check_policy(plan,", "    (plan,", _WRONG),
    ("policy with every request", f"{APPROVAL}/checks.py", "    check_policy(plan,", "    (plan,", _TIGHTENED),
    # What a plan claims and counts
    ("claim", f"{APPROVAL}/checks.py", "    check_claim(plan)\n", "", _WRONG),
    ("version", f"{APPROVAL}/checks.py", "    plan.check_version()\n", "", _WRONG),
    ("code", f"{APPROVAL}/checks.py", "    check_package(plan.package_sha256)\n", "", _WRONG),
    ("roster", f"{APPROVAL}/checks.py", "if site.config.site not in plan.cohort.units:", "if False:", _WRONG),
    ("unit for life", f"{APPROVAL}/checks.py", "if wanted != (data.unit, data.unit_column):", "if False:", _WRONG),
    ("published figure", f"{APPROVAL}/checks.py", "if figure != data.publish:", "if False:", _WRONG),
    # Approvals
    (
        "withdrawn",
        f"{APPROVAL}/approvals.py",
        "    if approval.withdrawn:\n        raise",
        "    if False:\n        raise",
        f"{APPROVING}::test_a_withdrawn_plan_is_refused_for_good",
    ),
    (
        "withdrawn for good",
        f"{APPROVAL}/proposing.py",
        "if before.withdrawn:",
        "if False:",
        f"{APPROVING}::test_a_withdrawn_plan_is_refused_for_good",
    ),
    (
        "looked at again",
        f"{APPROVAL}/approving.py",
        "        proposed_again(site, document.digest, document, books, now, proposal.start)\n",
        "",
        f"{APPROVING}::test_a_plan_withdrawn_while_a_person_reads_is_not_approved",
    ),
    (
        "expired",
        f"{APPROVAL}/approvals.py",
        "if approval.expired(now):",
        "if False:",
        f"{APPROVING}::test_an_approval_holds_to_the_end_of_its_last_day",
    ),
    (
        "the whole last day",
        f"{APPROVAL}/approvals.py",
        "date() > self.document.last_day",
        "date() >= self.document.last_day",
        f"{APPROVING}::test_an_approval_holds_to_the_end_of_its_last_day",
    ),
    (
        "longest approval",
        f"{APPROVAL}/proposing.py",
        "not today <= until <= last",
        "until < today",
        f"{APPROVING}::test_what_the_operator_says_is_checked",
    ),
    (
        "the coordinator that asked",
        f"{APPROVAL}/approvals.py",
        "if site.policy.coordinators.get(coordinator) != document.coordinator_key:",
        "if False:",
        f"{APPROVING}::test_another_coordinator_cannot_use_an_approval",
    ),
    (
        "sealed",
        f"{APPROVAL}/approvals.py",
        "good = hmac.compare_digest(seal, _seal(site, content))",
        "good = True",
        f"{APPROVING}::test_an_approval_of_another_site_is_none",
    ),
    (
        "of this plan",
        f"{APPROVAL}/approvals.py",
        " or approval.document.digest != digest or sha256_hex(approval.plan.encode()) != digest",
        "",
        f"{APPROVING}::test_no_byte_of_an_approval_can_change",
    ),
    (
        "reserved before it is approved",
        f"{APPROVAL}/approving.py",
        "        books.reserve(proposal.plan, document.data_set)\n",
        "",
        f"{APPROVING}::test_an_approved_plan_is_answered",
    ),
    (
        "registered before it is reserved",
        f"{APPROVAL}/approving.py",
        "        register(site, proposal.plan,",
        "        books.reserve(proposal.plan, document.data_set)\n        register(site, proposal.plan,",
        f"{APPROVING}::test_bad_records_end_an_approval_before_anything_is_reserved",
    ),
    (
        "refused before it is free",
        f"{APPROVAL}/approving.py",
        "        approval = approval_of(site, digest)\n",
        '        books.free(digest, "withdrawn")\n        approval = approval_of(site, digest)\n',
        f"{APPROVING}::test_a_node_refuses_before_the_budget_is_free",
    ),
    # Approvers
    (
        "an approver signs",
        f"{APPROVAL}/approving.py",
        'approver_of(site.policy, document, signature) if site.policy.approvers else ""',
        '""',
        f"{APPROVING}::test_without_a_named_approvers_signature_nothing_is_approved",
    ),
    (
        "over the whole document",
        f"{APPROVAL}/approvals.py",
        "bytes.fromhex(signature), document.as_bytes()",
        "bytes.fromhex(signature), document.digest.encode()",
        f"{APPROVING}::test_without_a_named_approvers_signature_nothing_is_approved",
    ),
    (
        "approver with every request",
        f"{APPROVAL}/approvals.py",
        "    if policy.approvers:\n",
        "    if False:\n",
        f"{APPROVING}::test_an_approver_who_left_takes_what_he_signed_with_him",
    ),
    (
        "request of this plan, and of today",
        f"{APPROVAL}/proposing.py",
        "    if changed:\n",
        "    if False:\n",
        f"{APPROVING}::test_a_request_that_was_changed_is_refused_whoever_signed_it",
    ),
    (
        "the command asks for the signature",
        "deployments/undertone_cli/commands/node_plans.py",
        "    if site.policy.approvers:\n        raise",
        "    if False:\n        raise",
        f"{COMMANDS}::test_an_approver_signs_what_was_printed",
    ),
    (
        "digits of the digest",
        "deployments/undertone_cli/commands/node_plans.py",
        "if typed.strip() != digest[:_TYPED]:",
        "if False:",
        f"{COMMANDS}::test_other_digits_than_those_of_the_page_approve_nothing",
    ),
    (
        "what was shown is so when it is approved",
        f"{APPROVAL}/approving.py",
        "        proposed_again(site, document.digest, document, books, now, proposal.start)\n",
        "",
        f"{APPROVING}::test_what_changed_while_a_person_read_or_signed_ends_an_approval",
    ),
    (
        "figures without the plan's own reservation",
        "client/undertone_client/site/budget.py",
        "accounts = accounts.without_reservation(plan.digest)",
        "pass",
        f"{COMMANDS}::test_a_signed_approval_that_was_broken_off_is_finished_by_the_same_command",
    ),
    (
        "records of the broken-off approval",
        f"{APPROVAL}/proposing.py",
        "kept and (said or approval_of(site, digest) is not None)",
        "kept",
        f"{COMMANDS}::test_a_signed_approval_that_was_broken_off_is_finished_by_the_same_command",
    ),
    (
        "records of an earlier approval",
        f"{APPROVAL}/proposing.py",
        "kept and (said or approval_of(site, digest) is not None)",
        "said",
        f"{APPROVING}::test_a_page_that_was_signed_before_an_earlier_approval_registered_is_not_believed",
    ),
    (
        "approved with this federation",
        f"{APPROVAL}/approvals.py",
        "if pinned != document.federation:",
        "if False:",
        f"{APPROVING}::test_another_federation_than_the_one_that_was_approved_stops_the_plan",
    ),
    (
        "a live reservation with every request",
        "client/undertone_client/node.py",
        "    if not holds(ledger, digest):\n",
        "    if False:\n",
        f"{COMMANDS}::test_a_clock_that_was_ahead_leaves_a_plan_that_can_be_approved_again",
    ),
    (
        "an older ledger is named first",
        "client/undertone_client/node.py",
        '            refuse_older(ledger, secret, request.ledger_heads.get(self.site.config.site, ""))\n',
        "",
        f"{COMMANDS}::test_an_older_ledger_is_called_so_and_not_a_lost_reservation",
    ),
    (
        "only a live approval needs no other",
        f"{APPROVAL}/proposing.py",
        "        if books.holds(digest):\n",
        "        if True:\n",
        f"{COMMANDS}::test_a_clock_that_was_ahead_leaves_a_plan_that_can_be_approved_again",
    ),
    (
        "a live approval needs no other",
        f"{APPROVAL}/proposing.py",
        "        if books.holds(digest):\n",
        "        if False:\n",
        f"{APPROVING}::test_a_plan_is_approved_once",
    ),
    (
        "only an honoured approval needs no other",
        f"{APPROVAL}/proposing.py",
        "        check_honoured(site, before, now)\n",
        "",
        f"{APPROVING}::test_a_plan_whose_approval_is_honoured_no_more_is_approved_anew",
    ),
    (
        "as long as the policy of now allows",
        f"{APPROVAL}/approvals.py",
        "date() - approval.first_day > longest",
        "date() > date.max",
        f"{APPROVING}::test_an_approval_lasts_no_longer_than_the_policy_of_now_allows",
    ),
    (
        "as long as the policy says anything",
        f"{APPROVAL}/approvals.py",
        "policy.longest_approval_days is None or",
        "",
        f"{APPROVING}::test_an_approval_lasts_no_longer_than_the_policy_of_now_allows",
    ),
    (
        "an end frees what was not charged",
        f"{APPROVAL}/approving.py",
        '        books.free(digest, "ended")\n',
        "",
        f"{COMMANDS}::test_a_study_that_is_ended_frees_what_it_did_not_charge_and_can_go_on_after_all",
    ),
    # Plans that wait
    (
        "bounded",
        f"{APPROVAL}/pending.py",
        "if waiting.count(coordinator) >= MOST_PENDING:",
        "if False:",
        f"{PENDING}::test_each_coordinator_has_room_for_so_many_and_none_is_dropped",
    ),
    (
        "each coordinator its own room",
        f"{APPROVAL}/pending.py",
        "waiting.count(coordinator) >= MOST_PENDING",
        "len(waiting) >= MOST_PENDING",
        f"{PENDING}::test_each_coordinator_has_room_for_so_many_and_none_is_dropped",
    ),
    (
        "first come",
        f"{APPROVAL}/pending.py",
        "if signers.get(digest):",
        "if False:",
        f"{PENDING}::test_a_plan_that_waits_stays_the_plan_of_who_sent_it_first",
    ),
    (
        "the policy of now",
        "client/undertone_client/node.py",
        "            self.site = SiteDir(self.site.folder)\n",
        "",
        f"{APPROVING}::test_a_node_that_runs_on_knows_the_policy_of_now",
    ),
    (
        "the node frees what expired",
        "client/undertone_client/node.py",
        "            self._free_expired()\n",
        "            pass\n",
        f"{COMMANDS}::test_a_node_frees_what_expired",
    ),
    (
        "longest plan",
        f"{APPROVAL}/pending.py",
        "if len(plan) > PLAN_BYTES:",
        "if False:",
        f"{PENDING}::test_what_is_too_long_for_a_plan_is_not_kept",
    ),
    (
        "the plan that was signed",
        f"{APPROVAL}/pending.py",
        "if sha256_hex(plan) != digest:",
        "if False:",
        f"{APPROVING}::test_a_plan_that_was_changed_where_it_waits_is_not_approved",
    ),
    (
        "a full disk makes no fault",
        "client/undertone_client/node.py",
        "except (FolderError, NotApproved) as error:",
        "except NotApproved as error:",
        f"{PENDING}::test_a_disk_that_is_full_makes_no_fault",
    ),
    (
        "kept for a person",
        "client/undertone_client/node.py",
        "            self._keep_pending(request)\n",
        "",
        f"{PENDING}::test_the_first_message_of_a_known_coordinator_leaves_its_plan",
    ),
    # The page
    (
        "sums that count",
        "common/undertone/release/trust.py",
        'return method.counted_by if isinstance(method, CountsUnits) else ""',
        'return ""',
        f"{PAGE}::test_where_sums_count_the_page_says_so_and_who_learns_it",
    ),
    (
        "quoted",
        f"{APPROVAL}/page.py",
        "{_quoted(plan.model.base)}",
        "{plan.model.base}",
        f"{PAGE}::test_what_a_coordinator_wrote_adds_no_lines_and_no_colours",
    ),
    (
        "rounded up",
        f"{APPROVAL}/figures.py",
        'return f"{ceil(epsilon * 1000) / 1000:.3f}"',
        'return f"{epsilon:.3f}"',
        f"{PAGE}::test_the_columns_of_figures_are_rounded_to_the_safe_side",
    ),
    (
        "rounded down",
        f"{APPROVAL}/figures.py",
        'return f"{floor(epsilon * 1000) / 1000:.3f}"',
        'return f"{epsilon:.3f}"',
        f"{PAGE}::test_a_figure_promises_no_more_than_it_is",
    ),
    (
        "best guess",
        f"{APPROVAL}/figures.py",
        "(1 + delta * exp(-epsilon)) / (1 + exp(-epsilon))",
        "0.5 + 0.2 * epsilon / (1 + epsilon)",
        f"{PAGE}::test_nobody_guesses_better_than_the_page_says",
    ),
]


def main() -> int:
    """Print a line for each mutant; 1 where one survived."""
    return run_mutants((check, file, old, new, [test]) for check, file, old, new, test in MUTANTS)


if __name__ == "__main__":
    sys.exit(main())
