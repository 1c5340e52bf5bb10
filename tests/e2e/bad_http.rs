//! Bad HTTP, row by row: what a hostile client may send, and the test that sends it. Every test named here speaks over raw
//! sockets, and what got through is what the upstream has recorded.

/// The number of the input, what it is, and the test.
const ROWS: [(u32, &str, &str); 51] = [
    (112, "an identity header beside a token", "identity::what_a_client_says_about_itself_is_removed"),
    (113, "the same on an open route", "identity::what_a_client_says_about_itself_is_removed"),
    (114, "the same without the claim", "identity::what_a_client_says_about_itself_is_removed"),
    (115, "underscores in its name", "identity::what_a_client_says_about_itself_is_removed"),
    (116, "several copies in mixed case", "identity::what_a_client_says_about_itself_is_removed"),
    (117, "named by Connection", "identity::connection_options_cannot_remove_what_the_gateway_says"),
    (118, "forwarding headers of a stranger", "identity::forwarding_headers_are_believed_from_trusted_proxies_only"),
    (119, "a trusted proxy by default", "identity::forwarding_headers_are_believed_from_trusted_proxies_only"),
    (120, "no Host", "messages::a_request_has_one_host_and_names_it_well"),
    (121, "two Hosts", "messages::a_request_has_one_host_and_names_it_well"),
    (122, "a malformed Host", "messages::a_request_has_one_host_and_names_it_well"),
    (123, "an absolute target", "messages::a_request_has_one_host_and_names_it_well"),
    (124, "targets that are no resource", "messages::methods_and_targets_that_are_no_resource_are_refused"),
    (125, "methods that are none", "messages::methods_and_targets_that_are_no_resource_are_refused"),
    (126, "a length and a coding", "messages::ambiguous_framing_is_refused"),
    (127, "two lengths", "messages::ambiguous_framing_is_refused"),
    (128, "a malformed length", "messages::ambiguous_framing_is_refused"),
    (129, "an unknown coding", "messages::ambiguous_framing_is_refused"),
    (130, "a coding in HTTP/1.0", "messages::ambiguous_framing_is_refused"),
    (131, "malformed fields", "messages::ambiguous_framing_is_refused"),
    (132, "bytes that no field may have", "messages::ambiguous_framing_is_refused"),
    (133, "broken chunks", "messages::bodies_with_broken_chunks_are_the_clients_fault"),
    (134, "a version that is none", "messages::methods_and_targets_that_are_no_resource_are_refused"),
    (135, "parts that are too large", "messages::parts_that_are_too_large_are_refused_by_name"),
    (136, "a body over the limit", "messages::a_body_over_the_limit_of_its_route_is_refused_before_it_is_read"),
    (137, "Expect", "messages::a_client_that_expects_to_be_asked_is_answered_at_once_when_refused"),
    (138, "a body where none is expected", "messages::no_byte_of_a_body_is_left_for_the_next_request"),
    (139, "pipelining", "messages::pipelined_requests_are_judged_one_by_one_and_answered_in_order"),
    (140, "dot segments", "paths::no_spelling_of_a_protected_path_is_open"),
    (141, "several slashes", "paths::no_spelling_of_a_protected_path_is_open"),
    (142, "single dots", "paths::no_spelling_of_a_protected_path_is_open"),
    (143, "escaped letters", "paths::no_spelling_of_a_protected_path_is_open"),
    (144, "path parameters", "paths::no_spelling_of_a_protected_path_is_open"),
    (145, "backslashes", "paths::no_spelling_of_a_protected_path_is_open"),
    (146, "NUL and line ends", "paths::no_spelling_of_a_protected_path_is_open"),
    (147, "a path in the query", "paths::no_spelling_of_a_protected_path_is_open"),
    (148, "a fragment", "paths::no_spelling_of_a_protected_path_is_open"),
    (149, "another case", "paths::no_spelling_of_a_protected_path_is_open"),
    (150, "spellings of a host", "paths::hosts_are_compared_without_case_port_and_final_dot"),
    (151, "bytes outside ASCII", "paths::no_spelling_of_a_protected_path_is_open"),
    (152, "any path", "paths::the_path_sent_upstream_is_the_path_decided_on"),
    (153, "half a head, then silence", "slow_clients::a_head_that_does_not_come_ends_the_connection"),
    (154, "a head that drips", "slow_clients::a_head_that_drips_ends_the_connection_in_total"),
    (155, "a body that drips", "limits::a_body_that_drips_is_cut_by_its_rate_and_one_that_takes_too_long_by_its_time"),
    (156, "a client that does not read", "slow_clients::a_client_that_does_not_read_is_cut_and_costs_a_bounded_buffer"),
    (157, "idle connections", "limits::a_thousand_idle_connections_cost_little_and_keep_nobody_out"),
    (158, "slow clients beside others", "slow_clients::slow_clients_do_not_keep_others_out"),
    (159, "a WebSocket with and without a token", "streams::an_upgrade_is_decided_like_any_request"),
    (160, "an upgrade to h2c", "upgrades::upgrades_are_not_forwarded"),
    (161, "an upgrade to what nobody knows", "upgrades::upgrades_are_not_forwarded"),
    (162, "an upgrade that is none", "upgrades::upgrades_are_not_forwarded"),
];

#[test]
fn every_row_is_tested_where_the_table_says() {
    for ((row, what, place), number) in ROWS.iter().zip(112..) {
        assert_eq!(*row, number, "{what}");
        let (module, test) = place.split_once("::").unwrap();
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/e2e/{module}.rs"));
        let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let body = source.split_once(&format!("fn {test}(")).unwrap_or_else(|| panic!("{place} is no test")).1;
        let body = body.split("\n}\n").next().unwrap();
        assert!(body.contains(&row.to_string()), "{place} does not name row {row}, {what}");
    }
}
