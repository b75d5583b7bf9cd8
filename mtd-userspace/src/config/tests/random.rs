//! Tests of the configuration: no text makes it panic, and each problem has its place.

use proptest::prelude::*;

use super::*;

/// Pieces from which texts are made that get past the TOML parser more often than chance.
fn pieces() -> impl Strategy<Value = String> {
    let keys = FORMAT.schemas().flat_map(Schema::keys).map(|key| (key.name, key.example));
    let tables = FORMAT.tables.iter().map(|table| (table.name(), if table.is_list() { "[]" } else { "{}" }));
    let mut pieces: Vec<String> = keys
        .chain(tables)
        .flat_map(|(key, value)| [format!("{key} = {value}\n"), format!("{key} = ")])
        .collect();
    pieces.extend(FORMAT.schemas().map(|schema| format!("{}\n", schema.header)));
    pieces.extend(
        [
            "link = \"shared\"\n",
            "prefix = \"interface\"\n",
            "[peer]\n",
            "\"\"\n",
            "[]\n",
            "{}\n",
            "0\n",
            "-1\n",
            "\"::/0\"\n",
            "[\"é\", 1]\n",
        ]
        .map(str::to_owned),
    );
    prop::collection::vec(prop::sample::select(pieces), 0..24).prop_map(|pieces| pieces.concat())
}

/// What every result must satisfy, whatever the text.
fn judge(text: &str) -> Result<(), TestCaseError> {
    match Config::parse(text, "mtd.toml") {
        Ok(config) => {
            prop_assert_eq!(config.prefixes.is_empty(), config.follow_prefix);
            prop_assert!(config.prefixes.len() <= 4);
            prop_assert!(!config.follow_prefix || config.link == LinkMode::Shared && config.peers.is_empty());
            prop_assert!(!config.addresses.is_empty() || !config.servers.is_empty());
            prop_assert!(config.identity.is_some() || config.listen.is_none() && config.servers.is_empty());
            if let Some(listen) = &config.listen {
                prop_assert!(listen.pool.networks().next().is_some());
                prop_assert!(listen.expire_after >= listen.rekey_after + MIN_REKEY_MARGIN);
                prop_assert!(listen.introduction_grace <= config.rendezvous.window);
                prop_assert!(listen.period * MIN_SLOTS_AHEAD <= config.horizon);
            }
            for peer in &config.peers {
                prop_assert!(config.prefixes.contains(&peer.local_prefix));
                prop_assert!(peer.period * MIN_SLOTS_AHEAD <= config.horizon);
                prop_assert!(peer.seed != peer.peer_seed && !peer.allowed_ips.is_empty());
            }
        }
        Err(error) => {
            prop_assert!(!error.problems().is_empty());
            for problem in error.problems() {
                let (line, column) = problem.position.unwrap();
                let length = text.split('\n').nth(line - 1).map(|line| line.chars().count());
                prop_assert!(length.is_some_and(|length| (1..=length + 1).contains(&column)), "{problem:?}");
                prop_assert!(!problem.fault.what.is_empty() && !problem.fault.remedy.is_empty());
            }
            prop_assert_eq!(error.to_string().lines().count(), error.problems().len());
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_text_gives_a_configuration_or_problems_with_places(text in any::<String>()) {
        judge(&text)?;
    }

    #[test]
    fn so_does_any_medley_of_keys_and_values(text in pieces()) {
        judge(&text)?;
    }

    #[test]
    fn so_does_the_example_with_a_part_replaced(from in 0..EXAMPLE.len(), length in 0..64usize, new in "[ -~é\n]{0,8}") {
        let from = EXAMPLE.floor_char_boundary(from);
        let to = EXAMPLE.floor_char_boundary(from + length);
        judge(&format!("{}{new}{}", &EXAMPLE[..from], &EXAMPLE[to..]))?;
    }
}
