"""Faults that Calico must survive, each with the tests that try it. `make test-faults` runs them and prints this table.

    A 1 to 20: findings of an attack on an earlier version; F 1 to 27: faults that programs of this kind have had.
"""

P, G, T, B = (f"tests/faults/test_{name}.py::" for name in ("publishing", "growing_folders", "training", "budgets"))
C, E = "tests/agent/test_checkpoint.py::", "tests/datasets/test_episodes.py::"
S, R = "tests/envs/test_sb3.py::", "tests/agent/training/test_trainer.py::"
K, V = "tests/scripts/training/test_agent.py::", "tests/scripts/serving/test_"

# what happens -> the tests; a test without "::" is a whole file
FAULTS: dict[str, list[str]] = {
    "A1  out= names a checkpoint; the latest is damaged": [
        T + "test_no_run_begins_inside_a_checkpoint",
        T + "test_a_run_goes_on_from_its_last_good_checkpoint_when_it_is_told_to"],
    "A2  two processes collect into one folder": [
        G + "test_two_collections_in_one_folder_do_every_episode_once",
        G + "test_a_folder_in_use_is_refused_and_torchruns_ranks_share_it"],
    "A3  an import ends early": [
        G + "test_a_stopped_import_is_no_data_set_and_goes_on", G + "test_a_killed_import_goes_on",
        G + "test_an_import_of_other_data_does_not_go_on"],
    "A4  killed while a data set is replaced, at every call": [
        P + "test_a_pair_of_manifest_and_zip_is_replaced_whole",
        P + "test_a_data_set_with_pictures_becomes_one_without",
        P + "test_one_file_of_episodes_is_replaced_whole", P + "test_a_part_is_added_whole_or_not_at_all",
        G + "test_pictures_of_worlds_go_on_where_they_were"],
    "A5  weights that are not finite": [
        T + "test_weights_that_are_not_finite_are_neither_saved_nor_loaded",
        T + "test_no_setting_of_the_optimiser_is_infinite",
        T + "test_the_message_does_not_call_broken_weights_untouched"],
    "A6  a data worker dies, hangs, or data fail": [
        T + "test_workers_that_die_or_hang_are_replaced_and_the_batches_stay_the_same",
        T + "test_workers_that_die_again_and_again_are_one_line", T + "test_data_that_fail_end_training_with_a_save",
        T + "test_ctrl_c_is_heard_while_a_batch_does_not_come"],
    "A7  SIGTERM; leftovers of dead writers; a full disk": [
        G + "test_sigterm_keeps_what_is_finished",
        P + "test_what_dead_writers_left_goes_and_what_living_ones_write_stays",
        P + "test_a_full_disk_is_one_line_with_the_path_and_leaves_the_old_file",
        P + "test_a_file_and_a_folder_appear_whole",
        P + "test_files_are_written_by_the_publisher_alone", P + "test_an_export_on_a_full_disk_is_one_line"],
    "A8  an observation of another dtype, or infinite": ["tests/envs/test_checks.py"],
    "A9  marks that are text or NaN; a video that was cut": [
        B + "test_ends_of_episodes_are_marked_by_true_and_false",
        B + "test_a_video_that_ends_early_or_is_too_large_is_said"],
    "A10 HDF5 that reaches other files": [
        B + "test_hdf5_does_not_reach_other_files", B + "test_minari_does_not_reach_other_files"],
    "A11 a pickle of statistics": [
        S + "test_statistics_run_nothing", S + "test_the_statistics_beside_a_model_are_used",
        S + "test_statistics_that_crash_their_reader_are_one_line"],
    "A12 names that lead to other folders": [
        G + "test_a_foreign_name_leads_to_no_other_folder", G + "test_an_import_writes_nothing_outside_of_its_folder",
        B + "test_a_manifest_names_videos_inside_its_folder"],
    "A13 what steers a terminal in names and texts": ["tests/faults/test_terminal.py"],
    "A14 small files that take much memory": [
        B + "test_arrays_that_an_npz_declares_are_counted_before_they_are_read",
        B + "test_rows_that_are_only_claimed_take_no_memory",
        B + "test_repeated_text_is_counted_while_it_is_read", B + "test_a_space_is_as_large_as_it_may",
        B + "test_a_list_that_repeats_one_number_is_refused_before_it_is_read",
        B + "test_a_json_document_is_counted_before_it_is_parsed",
        B + "test_a_model_is_as_deep_and_as_wide_as_its_file",
        B + "test_hostile_files_end_within_a_gigabyte"],
    "A15 fields that are missing or of another type": [
        "tests/faults/test_descriptions.py", B + "test_what_is_no_npz_is_one_line",
        B + "test_a_zip_of_another_compression_that_is_damaged_is_one_line"],
    "A16 a verb as a module": ["tests/scripts/test_main.py"],
    "A17 messages without a path": [
        P + "test_a_full_disk_is_one_line_with_the_path_and_leaves_the_old_file",
        P + "test_tensorboard_on_a_full_disk_is_named"],
    "A18 a chat of a thousand turns": ["tests/agent/test_talk.py::test_a_turn_costs_the_same_however_much_was_said"],
    "A19 bit for bit needs the same number of threads: said in `calico train --help`": [
        P + "test_the_help_says_what_bit_for_bit_needs"],
    "A20 noise on the screen while films are made": [P + "test_drawing_makes_no_noise"],
    "F1  kill -9 during a save": [
        C + "test_killed_at_random_moments",
        C + "test_killed_at_every_single_step_of_a_save"],
    "F2  killed before `latest`": [C + "test_a_first_save_killed_before_latest_still_loads"],
    "F3  disk full while saving or collecting": [
        C + "test_a_file_that_can_not_grow_is_one_line_and_the_old_checkpoint_stays",
        E + "test_a_full_disk_is_one_line_and_spares_what_is_there"],
    "F4  one flipped bit in weights": [C + "test_every_flipped_bit_is_seen_and_the_file_named"],
    "F5  a file missing or cut": [C + "test_missing_and_truncated_files_are_named"],
    "F6  pickles": [C + "test_pickles_are_refused_and_nothing_runs",
                    C + "test_a_pickle_under_another_name_does_not_run"],
    "F7  stop and resume, and again; SIGTERM": [
        "tests/scripts/test_train.py::test_stopped_and_continued_equals_never_stopped",
        R + "test_sigterm_saves_the_step_under_way_and_the_run_continues"],
    "F8  resume with other numbers of workers": ["tests/datasets/test_mixture.py::test_workers_do_not_change_the_batches"],
    "F9  continued by another number of ranks": [
        K + "test_two_ranks_write_the_run_of_one", K + "test_a_run_is_continued_by_any_number_of_ranks"],
    "F10 a rank is killed or raises": [
        K + "test_a_rank_that_dies_ends_the_others_in_a_line", K + "test_data_that_fail_on_one_rank_end_all_after_saving"],
    "F11 a rank hangs": [K + "test_a_rank_that_hangs_ends_the_others_in_a_line"],
    "F12 loss or gradient not finite": [R + "test_a_loss_that_is_not_finite_stops_before_the_weights_change"],
    "F13 noise in the labels of a few steps": ["tests/agent/training/test_spikes.py"],
    "F14 an environment raises, dies, exits": ["tests/envs/test_workers.py::test_what_raises_hangs_or_dies_costs_one_episode"],
    "F15 an environment hangs": ["tests/envs/test_isolated.py::test_an_environment_of_its_own_process_can_hang_or_die"],
    "F16 NaN, another shape or dtype observed": ["tests/envs/test_runner.py::test_other_kinds_of_faults_are_named"],
    "F17 Parquet: flipped, cut, of another schema, newer": [
        E + "test_each_flipped_bit_is_found_and_named", E + "test_a_truncated_file_is_named",
        E + "test_another_schema_is_named", E + "test_a_newer_format_asks_for_an_upgrade"],
    "F18 a Parquet bomb": [E + "test_a_bomb_is_refused_before_it_is_read"],
    "F19 pictures: bombs, cut, odd": ["tests/datasets/test_shards.py::test_broken_pictures_and_bombs_are_named"],
    "F20 a hostile tokenizer": ["tests/tokenizers/test_text.py::test_flipped_bytes_load_or_raise_value_error"],
    "F21 YAML": ["tests/scripts/common/test_safe_yaml.py"],
    "F22 tar: links, paths, members": ["tests/datasets/test_shards.py::test_links_and_damage_are_refused"],
    "F23 what strangers ask of the page's server": ["tests/scripts/web/test_requests.py"],
    "F24 what strangers ask of `calico serve`": [
        V + "guard.py", V + "talking.py::test_a_reply_ends_after_its_time_and_when_nobody_reads_it",
        V + "control.py::test_a_client_that_leaves_takes_nothing_with_it", V + "load.py::test_thirty_two_clients_act_at_once"],
    "F25 two runs in one folder; a folder that is read-only": ["tests/agent/test_run_lock.py"],
    # their long runs, an hour and more, are part of `make test-all`
    "F26 readers meet mutated files": ["tests/datasets/test_fuzz.py::test_mutated_files_are_read_or_refused",
                                       "tests/datasets/test_fuzz_samples.py::test_mutated_samples_are_read_or_refused"],
    "F27 supply chain": ["tests/test_wheel.py", "tests/test_dependencies.py"],
}
