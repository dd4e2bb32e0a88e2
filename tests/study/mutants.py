"""Take one check of a study or a plan out, see its test turn red: `python -m tests.study.mutants [WORD]`.

Each mutant names the test that guards it. Not collected by pytest: it takes minutes.
"""

import sys

from tests.support.mutants import run_mutants

COMMON, CLIENT, SERVER = "common/undertone", "client/undertone_client", "server/undertone_server"
STAGES, ROUNDS, SELECTION = "study/test_stages.py", "server/test_staged_rounds.py", "methods/test_selection.py"
NEW, WRITES = "deployments/undertone_cli/commands/new.py", "cli/test_new.py"
BESIDE = "study/test_neighbours.py"
LINEAGE, BOTH, STARTS = "study/test_lineage.py", "e2e/test_lineage.py", "client/approval/test_starts.py"
_RUNS = f"{ROUNDS}::test_a_study_of_two_stages_runs_and_charges_each_its_own"
_NO_SUM = f"{ROUNDS}::test_the_gate_takes_no_sum_of_another_stage"
_NO_RECEIPT = f"{ROUNDS}::test_the_gate_takes_no_receipt_for_another_stage"
_SHARES = f"{ROUNDS}::test_noise_shares_of_another_stage_are_refused"
_VERIFY = f"{ROUNDS}::test_verify_wants_each_round_charged_its_own_event"
_STATE = f"{ROUNDS}::test_a_site_refuses_a_state_that_no_selection_can_have_made"
_CLIP = f"{ROUNDS}::test_a_sites_sum_is_clipped_to_the_c_of_its_round"

# (check, file, text that must be there once, what takes its place, the test that turns red)
MUTANTS: list[tuple[str, str, str, str, str]] = [
    # The claim
    (
        "the selection is charged",
        f"{COMMON}/study/plan.py",
        "tuple(stage.charges for stage in self.stages)",
        "tuple(stage.charges for stage in self.stages[-1:])",
        f"{STAGES}::test_the_claim_of_two_stages_is_one_composed_call",
    ),
    (
        "each stage at its own most attempts",
        f"{COMMON}/study/stage.py",
        "replace(self.event, count=self.max_attempts)",
        "replace(self.event, count=len(self.rounds))",
        f"{STAGES}::test_the_claim_of_two_stages_is_one_composed_call",
    ),
    (
        "the last stage is left what the others leave",
        f"{COMMON}/study/settling.py",
        "by_rdp=distributed, beside=beside",
        "by_rdp=distributed",
        f"{STAGES}::test_a_study_with_a_first_stage_spends_its_share_there_and_the_rest_after",
    ),
    # The gate
    (
        "a sum of the round's bound",
        f"{SERVER}/gate.py",
        "if total.sensitivity != stage.sensitivity:",
        "if total.sensitivity not in [one.sensitivity for one in plan.stages]:",
        _NO_SUM,
    ),
    (
        "a sum of the round's length",
        f"{SERVER}/gate.py",
        "if total.values.shape != (stage.dimension,):\n        raise MechanismViolation(\n",
        "if False:\n        raise MechanismViolation(\n",
        _NO_SUM,
    ),
    (
        "a receipt of the round's event",
        f"{SERVER}/gate.py",
        "    if receipt.event != stage.event:\n        raise MechanismViolation",
        "    if False:\n        raise MechanismViolation",
        _NO_RECEIPT,
    ),
    (
        "a receipt of the round's event, after a crash",
        f"{SERVER}/gate.py",
        "if receipt.event != attempt.stage.event:",
        "if False:",
        _NO_RECEIPT,
    ),
    (
        "the round's event is charged, not the cheaper",
        f"{SERVER}/gate.py",
        "        stage.event,\n",
        "        min((one.event for one in attempt.plan.stages), key=lambda event: -event.noise_multiplier),\n",
        f"{ROUNDS}::test_the_gate_charges_the_event_of_the_round_and_not_a_cheaper_one",
    ),
    (
        "the round's noise is drawn",
        f"{SERVER}/gate.py",
        "rounded_gaussian(entropy, stage.sigma,",
        "rounded_gaussian(entropy, plan.stages[-1].sigma,",
        f"{ROUNDS}::test_the_noise_of_each_stage_has_its_own_size",
    ),
    (
        "shares of the round's size at the gate",
        f"{SERVER}/gate.py",
        " or total.sigma_local != stage.sigma_local",
        "",
        _SHARES,
    ),
    # Attempts
    (
        "attempts by stage at the coordinator",
        f"{SERVER}/rounds.py",
        "        most = self.plan.stage_of(round_).max_attempts\n",
        "        most = self.plan.privacy.max_attempts\n",
        f"{ROUNDS}::test_attempts_are_bounded_by_stage",
    ),
    (
        "attempts by stage in a ledger",
        f"{COMMON}/privacy/ledger.py",
        "digest and (rounds is None or of in rounds)",
        "digest and (rounds is None or of == round_)",
        f"{ROUNDS}::test_attempts_of_the_selection_that_are_not_used_are_no_others",
    ),
    # The site
    (
        "a site's grid is the round's",
        f"{CLIENT}/round/contribution.py",
        "plan.stage_of(attempt[1])",
        "plan.stages[0]",
        _CLIP,
    ),
    (
        "a site's share on the round's bound",
        f"{CLIENT}/round/noise_share.py",
        "if clipped.sensitivity != stage.sensitivity:",
        "if False:",
        _SHARES,
    ),
    (
        "a site's share after the round's receipt",
        f"{CLIENT}/round/noise_share.py",
        "if receipt.event != stage.event or (receipt.digest, receipt.round) != (plan.digest, round_):",
        "if False:",
        _SHARES,
    ),
    (
        "a site charges the round's event",
        f"{CLIENT}/site/budget.py",
        "        attempt,\n        stage.event,\n",
        "        attempt,\n        plan.stages[-1].event,\n",
        f"{ROUNDS}::test_a_site_reserves_and_charges_each_stage",
    ),
    (
        "a ledger of another stage's charges is none",
        f"{CLIENT}/site/accounts.py",
        "if place is None or event != self.parts[place].fields:",
        "if place is None:",
        f"{ROUNDS}::test_a_ledger_that_charged_a_round_another_stages_event_is_none",
    ),
    (
        "a site looks at what was selected",
        f"{CLIENT}/compute/preparing.py",
        "        asked.check(self.state)\n",
        "",
        _STATE,
    ),
    (
        "attempts by stage at a site",
        f"{CLIENT}/node.py",
        "plan.stage_of(request.round).max_attempts",
        "plan.privacy.max_attempts",
        f"{ROUNDS}::test_attempts_are_bounded_by_stage",
    ),
    # The reader
    (
        "verify asks each round's stage",
        f"{COMMON}/release/verify.py",
        "charge.event != plan.stage_of(charge.round).event",
        "charge.event not in [stage.event for stage in plan.stages]",
        _VERIFY,
    ),
    (
        "verify counts attempts by stage",
        f"{COMMON}/release/verify.py",
        "> stage.max_attempts for stage",
        "> plan.privacy.max_attempts for stage",
        _VERIFY,
    ),
    # The selection
    (
        "a score without its noise",
        f"{COMMON}/methods/lora/targets.py",
        "(self.squares(mean) - self.lengths * deviation**2) / self.lengths",
        "self.squares(mean) / self.lengths",
        f"{SELECTION}::test_a_score_is_unbiased_however_large_the_noise",
    ),
    (
        "large targets are not chosen for their noise",
        f"{COMMON}/methods/lora/targets.py",
        "(self.squares(mean) - self.lengths * deviation**2) / self.lengths",
        "self.squares(mean)",
        f"{SELECTION}::test_a_large_target_is_not_chosen_for_its_noise",
    ),
    (
        "chosen from noised values",
        f"{SERVER}/update.py",
        "    mean = noised.values / denominator\n",
        "    mean = (noised.values // 2) / denominator\n",
        f"{SELECTION}::test_a_study_selects_trains_is_released_and_verifies",
    ),
    (
        "targets that are not chosen stay",
        f"{COMMON}/methods/lora/selection.py",
        "moved[:, values] = after[:-scalars].reshape(-1, size)[:, values]",
        "moved[:] = after[:-scalars].reshape(-1, size)",
        f"{SELECTION}::test_what_is_not_chosen_stays_at_the_start",
    ),
    # A new study holds what was typed
    (
        "classes are typed and not copied from the data",
        NEW,
        'classes=_typed_list("--classes", classes),',
        "classes=list(columns[class_column].values) if class_column else [],",
        f"{WRITES}::test_no_value_of_the_data_gets_into_a_study_by_itself",
    ),
    (
        "the class column is typed",
        NEW,
        "        class_column=class_column,\n",
        "        class_column=next((one.name for one in columns.values() if one.may_be_class), None),\n",
        f"{WRITES}::test_no_value_of_the_data_gets_into_a_study_by_itself",
    ),
    (
        "figures are typed and not counted",
        NEW,
        "sites=_sites(sites),",
        'sites=_sites(sites) or dict.fromkeys(("site-a", "site-b", "site-c"), len(folder.table.records)),',
        f"{WRITES}::test_no_value_of_the_data_gets_into_a_study_by_itself",
    ),
    (
        "the unit is typed and not guessed",
        NEW,
        "if unit is None and column is None and columns:",
        "if False:",
        f"{WRITES}::test_the_unit_is_never_guessed",
    ),
    (
        "a key at a prompt takes nothing over",
        NEW,
        '_asked("The column that names the patient (nothing: each image is another person)") or None',
        "_asked('Column') or next((one.name for one in columns.values() if one.may_be_unit), None)",
        f"{WRITES}::test_a_bare_key_at_every_prompt_takes_nothing_over",
    ),
    (
        "a study that appears meanwhile stays",
        NEW,
        'path.open("x", encoding="utf-8")',
        'path.open("w", encoding="utf-8")',
        f"{WRITES}::test_a_file_that_appears_meanwhile_stays",
    ),
    # Neighbours
    (
        "no drawing is looked at for a neighbour",
        f"{COMMON}/study/neighbours.py",
        '        tables["privacy"]["clip_norm"] = self.found.plan.stages[-1].clip_norm\n',
        "",
        f"{BESIDE}::test_no_drawing_is_looked_at_for_a_neighbour",
    ),
    (
        "no neighbour waits for the accountant",
        f"{COMMON}/study/neighbours.py",
        "None if exact else self._by_rdp(),",
        "None,",
        f"{BESIDE}::test_no_neighbour_waits_for_the_accountant_of_sampled_rounds",
    ),
    (
        "a neighbour refuses nothing",
        f"{COMMON}/study/neighbours.py",
        "except UndertoneError as error:",
        "except KeyError as error:",
        f"{BESIDE}::test_what_settling_refuses_is_said_too",
    ),
    (
        "a neighbour's attempts are its own",
        f"{COMMON}/study/neighbours.py",
        'tables["privacy"]["rounds"] + spare',
        "privacy.rounds + spare",
        f"{BESIDE}::test_a_neighbour_has_the_figures_of_a_plan_of_it",
    ),
    (
        "plan.json is printed as it is",
        "deployments/undertone_cli/commands/plan.py",
        "    if beside is None:\n        return text\n",
        "    if beside is None:\n        return json.dumps(json.loads(text), indent=1)\n",
        f"{BESIDE}::test_the_table_stands_in_plan_and_the_plan_is_the_same",
    ),
    # Two studies
    (
        "ancestor forgotten",
        f"{COMMON}/study/plan.py",
        "return (*self.before, *self.charges, *self.after)",
        "return (*self.charges, *self.after)",
        f"{LINEAGE}::test_a_plan_that_forgets_its_ancestor_is_refused",
    ),
    (
        "successor forgotten",
        f"{COMMON}/study/plan.py",
        "return (*self.before, *self.charges, *self.after)",
        "return (*self.before, *self.charges)",
        f"{LINEAGE}::test_a_plan_that_forgets_its_successor_is_refused",
    ),
    (
        "one claim for the ancestor's events alone",
        f"{COMMON}/study/plan.py",
        "if one is None or one.successor is None or one.successor.charges != self.charges:",
        "if one is None or one.successor is None:",
        f"{LINEAGE}::test_events_that_the_ancestor_did_not_hold_share_no_claim",
    ),
    (
        "one claim of one unit, delta and placement",
        f"{COMMON}/study/plan.py",
        'for key in ("unit", "delta", "noise"))',
        "for key in ())",
        f"{LINEAGE}::test_events_that_the_ancestor_did_not_hold_share_no_claim",
    ),
    (
        "one claim of one column",
        f"{COMMON}/study/plan.py",
        "return same and mine[1] == its[1]",
        "return same",
        f"{LINEAGE}::test_another_column_of_the_unit_shares_no_claim",
    ),
    (
        "the ancestor's own claim",
        f"{COMMON}/study/claim.py",
        "    if plan.ancestor is not None:\n        check_claim(plan.ancestor)\n",
        "",
        f"{LINEAGE}::test_a_plan_whose_ancestor_understates_is_refused",
    ),
    (
        "the ancestor's signature",
        f"{COMMON}/study/plan.py",
        "        check_signature(coordinator, PLAN_DOMAIN, plan.digest, signature)\n",
        "        del coordinator, signature\n",
        f"{LINEAGE}::test_an_ancestor_that_another_key_signed_is_refused",
    ),
    (
        "the ancestor's base",
        f"{COMMON}/study/plan.py",
        "        if ancestor.model.files != self.model.files:\n",
        "        if False:\n",
        f"{LINEAGE}::test_a_start_on_another_base_is_refused",
    ),
    (
        "no chain of starts",
        f"{COMMON}/study/plan.py",
        "if ancestor.rehearsal or ancestor.start is not None:",
        "if ancestor.rehearsal:",
        f"{LINEAGE}::test_studies_make_no_chain",
    ),
    (
        "the statement lists the ancestor",
        f"{COMMON}/release/statement.py",
        "        **_lineage(plan),\n",
        "",
        f"{LINEAGE}::test_the_statement_lists_the_ancestor_and_says_one_claim",
    ),
    (
        "what the ancestor rests on",
        f"{COMMON}/release/trust.py",
        "for line in its_own if line not in own)",
        "for line in its_own if line in own)",
        f"{LINEAGE}::test_what_the_first_study_rests_on_is_said_of_the_second",
    ),
    (
        "the first study's noise is what the second leaves",
        f"{COMMON}/study/settling.py",
        "beside = study.privacy.epsilon, (*successor, *(one.stage.charges for one in found))",
        "beside = study.privacy.epsilon, tuple(one.stage.charges for one in found)",
        f"{BOTH}::test_both_plans_make_one_claim_which_each_shows",
    ),
    (
        "shares of what the successor leaves",
        f"{COMMON}/study/settling.py",
        "    if not successor:\n        return wanted.epsilon\n",
        "    if wanted:\n        return wanted.epsilon\n",
        f"{LINEAGE}::test_a_first_study_of_several_stages_shares_out_what_its_successor_leaves",
    ),
    (
        "the pinned release",
        f"{COMMON}/release/start.py",
        "    if manifest != start.manifest:\n",
        "    if False:\n",
        f"{STARTS}::test_a_release_that_is_not_the_pinned_one_is_refused",
    ),
    (
        "a release that verifies",
        f"{COMMON}/release/start.py",
        "    found = _verified(folder, start.coordinator)\n",
        "    found = Verified(**dict.fromkeys(Verified.__dataclass_fields__, ()))\n",
        f"{STARTS}::test_a_release_that_is_not_the_pinned_one_is_refused",
    ),
    (
        "the release is asked for",
        f"{CLIENT}/approval/starts.py",
        "    if start is None:\n        raise NotApproved(",
        "    if start is None:\n        return None\n    if start == Path():\n        raise NotApproved(",
        f"{STARTS}::test_without_the_release_nothing_is_approved_and_the_message_says_what_to_give",
    ),
    (
        "the ledger has the ancestor's charges",
        f"{CLIENT}/approval/starts.py",
        "    if len(charged & set(range(1, rounds + 1))) < sums:\n",
        "    if False:\n",
        f"{STARTS}::test_a_site_whose_ledger_lacks_the_ancestors_charges_refuses",
    ),
    (
        "the release is looked at again",
        f"{CLIENT}/approval/approving.py",
        "proposed_again(site, document.digest, document, books, now, proposal.start)",
        "bool(proposed_again)",
        f"{STARTS}::test_it_is_looked_at_again_when_the_operator_has_answered",
    ),
    (
        "a request is held against the release",
        f"{CLIENT}/node.py",
        "        check_started(approval, plan)\n",
        "",
        f"{STARTS}::test_a_request_is_held_against_what_was_looked_at",
    ),
    (
        "RUN's copy of the release",
        f"{SERVER}/starting.py",
        "    check_start(plan, run.start)\n",
        "",
        f"{BOTH}::test_a_run_whose_copy_of_the_start_changed_goes_no_further",
    ),
    (
        "trained once",
        f"{SERVER}/starting.py",
        "    if kept is not None:\n        return kept\n",
        "",
        f"{BOTH}::test_a_death_before_or_after_the_first_state_is_durable_changes_no_bit",
    ),
    (
        "simulated sites have the ancestor's charges",
        "deployments/undertone_cli/commands/simulate.py",
        "            carry_over(created, plan, start.charges[site])\n",
        "            pass\n",
        f"{BOTH}::test_every_sites_ledger_holds_both_studies",
    ),
    (
        "simulated sites hold what they held",
        "deployments/undertone_cli/ancestry.py",
        "    if then is None or _held(then) != _held(now):\n",
        "    if then is None:\n",
        f"{BOTH}::test_a_simulation_on_other_images_is_refused",
    ),
]


def main() -> int:
    """Print a line for each mutant; 1 where one survived."""
    return run_mutants((check, file, old, new, [test]) for check, file, old, new, test in MUTANTS)


if __name__ == "__main__":
    sys.exit(main())
