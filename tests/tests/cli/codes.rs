//! The exit codes of the programs are those of the page.

use backup_terminal::Exit;

#[test]
fn the_page_and_the_enum_agree() {
    let page = include_str!("../../../docs/exit-codes.md");
    let rows: Vec<(u8, String)> = page
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let code = cells.next()?.parse().ok()?;
            Some((code, cells.next()?.trim_matches('`').to_owned()))
        })
        .collect();
    let codes: Vec<(u8, String)> = Exit::ALL
        .iter()
        .map(|exit| (exit.code(), exit.name().to_owned()))
        .collect();
    assert_eq!(rows, codes);
}
