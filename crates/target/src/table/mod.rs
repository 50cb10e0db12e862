//! Known layouts, by nginx version and module signature.
//!
//! For binaries without DWARF. The rows come from the headers of what is shipped (see `docs/layouts.md`),
//! so a row says where fields stand in a build *like* the one found. Version and signature do not tell every
//! two builds apart: a distributor may backport a new field without changing either. Kong 3.9.3 did.
//! A row that is not [`Verified::Live`] is a candidate to be proven on live requests.

mod rows;

use crate::layout::{ConnectionLayout, Layout, RequestLayout, UpstreamStateLayout};

/// The layout of one build, or of several that agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Version of the nginx inside: three numbers, without OpenResty's fourth.
    pub version: &'static str,
    /// `NGX_MODULE_SIGNATURE`, as it stands in the binary's `.rodata`.
    pub signature: &'static str,
    /// Who ships it, for people: "nginx.org, Debian 12".
    pub shipped_by: &'static str,
    /// Where the fields stand.
    pub layout: &'static Layout,
    /// How far this has been tried.
    pub verified: Verified,
}

/// What a row rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Read back from a running process; the text says which binary and how.
    Live(&'static str),
    /// Compiled against the headers, never held against a binary.
    HeadersOnly,
}

/// Every row: by version, then signature, then layout.
pub fn all() -> &'static [Row] {
    &rows::ROWS
}

/// The row of this version and signature.
///
/// `None` if there is none, and also if there are several with different layouts: then only live requests
/// can tell, and [`nearest`] names all of them first. `version` may carry OpenResty's fourth number.
pub fn find(version: &str, signature: &str) -> Option<&'static Row> {
    let version = core_version(version);
    let mut same = all().iter().filter(|row| row.version == version && row.signature == signature);
    let row = same.next()?;
    same.next().is_none().then_some(row)
}

/// Rows worth trying for this version, the nearest version first, whatever their signature.
///
/// The same version comes first, then others of its minor series by distance, then further series of the
/// same major version. A caller that knows the signature should prefer rows that carry it. Nothing if
/// `version` does not start with three numbers.
pub fn nearest(version: &str) -> impl Iterator<Item = &'static Row> {
    let mut found: Vec<_> = match numbers(version) {
        None => Vec::new(),
        Some(wanted) => {
            all().iter().filter_map(|row| Some((distance(wanted, numbers(row.version)?)?, row))).collect()
        }
    };
    // Stable: rows at the same distance keep the table's order.
    found.sort_by_key(|&(distance, _)| distance);
    found.into_iter().map(|(_, row)| row)
}

/// `1.25.3.2` (OpenResty's own numbering) without its fourth number.
fn core_version(version: &str) -> &str {
    match version.match_indices('.').nth(2) {
        Some((at, _)) => version.get(..at).unwrap_or(version),
        None => version,
    }
}

fn numbers(version: &str) -> Option<[u16; 3]> {
    let mut parts = core_version(version).split('.').map(|part| part.parse().ok());
    Some([parts.next()??, parts.next()??, parts.next()??])
}

/// Steps in the minor series, then in the patch; `None` across major versions.
fn distance(wanted: [u16; 3], other: [u16; 3]) -> Option<(u16, u16)> {
    let ([major, minor, patch], [other_major, other_minor, other_patch]) = (wanted, other);
    (major == other_major).then_some((minor.abs_diff(other_minor), patch.abs_diff(other_patch)))
}

/// A layout from plain numbers, each array in the order its structure declares; `connection.ssl` 0 is `None`.
const fn layout(
    request: [u16; 17],
    connection: [u16; 8],
    table_elt_value: u16,
    upstream: [u16; 7],
) -> Layout {
    Layout {
        request: {
            let [
                size,
                connection,
                upstream_states,
                host,
                user_agent,
                server,
                status,
                start_sec,
                start_msec,
                method,
                http_version,
                request_line,
                unparsed_uri,
                method_name,
                main,
                request_length,
                err_status,
            ] = request;
            RequestLayout {
                size,
                connection,
                upstream_states,
                host,
                user_agent,
                server,
                status,
                start_sec,
                start_msec,
                method,
                http_version,
                request_line,
                unparsed_uri,
                method_name,
                main,
                request_length,
                err_status,
            }
        },
        connection: {
            let [size, sent, sockaddr, socklen, ssl, pool, number, requests] = connection;
            let ssl = if ssl == 0 { None } else { Some(ssl) };
            ConnectionLayout { size, sent, sockaddr, socklen, ssl, pool, number, requests }
        },
        table_elt_value,
        upstream_state: {
            let [size, status, response_time, connect_time, header_time, bytes_received, peer] = upstream;
            UpstreamStateLayout {
                size,
                status,
                response_time,
                connect_time,
                header_time,
                bytes_received,
                peer,
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPAT: &str = "8,4,8,0011111111010111001111111111111111";

    fn order(row: &Row) -> (Option<[u16; 3]>, &str) {
        (numbers(row.version), row.signature)
    }

    #[test]
    fn rows_stand_in_order_and_once() {
        for pair in all().windows(2) {
            let [a, b] = pair else { unreachable!() };
            assert!(order(a) <= order(b), "{a:?} before {b:?}");
        }
        for (i, a) in all().iter().enumerate() {
            for b in &all()[i + 1..] {
                assert!(order(a) != order(b) || a.layout != b.layout, "twice: {a:?}");
            }
        }
    }

    #[test]
    fn layouts_stand_once() {
        for (i, a) in rows::LAYOUTS.iter().enumerate() {
            assert!(!rows::LAYOUTS[i + 1..].contains(a), "twice: {a:?}");
        }
    }

    #[test]
    fn every_row_is_of_a_64_bit_build_and_readable() {
        for row in all() {
            assert!(numbers(row.version).is_some(), "{row:?}");
            assert!(row.signature.starts_with("8,4,8,"), "{row:?}");
            assert!(row.signature[6..].bytes().all(|b| b == b'0' || b == b'1'), "{row:?}");
            assert!(!row.shipped_by.is_empty());
        }
    }

    #[test]
    fn offsets_are_words_inside_their_structure() {
        for layout in &rows::LAYOUTS {
            let r = &layout.request;
            let inside = [
                r.connection,
                r.upstream_states,
                r.host,
                r.user_agent,
                r.server,
                r.status,
                r.start_sec,
                r.start_msec,
                r.method,
                r.http_version,
                r.request_line,
                r.unparsed_uri,
                r.method_name,
                r.main,
                r.request_length,
                r.err_status,
            ];
            words(&inside, r.size);
            let c = &layout.connection;
            words(&[c.sent, c.sockaddr, c.socklen, c.ssl.unwrap_or(8), c.pool, c.number, c.requests], c.size);
            let u = &layout.upstream_state;
            words(&[u.response_time, u.connect_time, u.header_time, u.bytes_received, u.peer], u.size);
            assert_eq!(u.status, 0);
            // Two words of `ngx_str_t key` and the hash stand before it.
            assert_eq!(layout.table_elt_value, 24);
        }
    }

    /// Distinct, 8-byte aligned, and neither the first member nor past the end.
    fn words(offsets: &[u16], size: u16) {
        assert_eq!(size % 8, 0);
        for (i, offset) in offsets.iter().enumerate() {
            assert!(offset % 8 == 0 && *offset > 0 && *offset < size, "{offset} of {size}");
            assert!(!offsets[i + 1..].contains(offset), "{offset} twice");
        }
    }

    #[test]
    fn debian_12_is_found_and_was_run() {
        let row = find("1.22.1", COMPAT).unwrap();
        assert!(row.shipped_by.contains("Debian 12"));
        assert!(matches!(row.verified, Verified::Live(_)));
        assert_eq!(row.layout.request.size, 1512);
        assert_eq!(row.layout.connection.ssl, Some(144));
    }

    #[test]
    fn openresty_is_found_by_its_four_numbers() {
        let row = find("1.21.4.1", "8,4,8,0000111111010111001110111111110110").unwrap();
        assert!(row.shipped_by.contains("Kong 3.0-3.3"));
        assert_eq!(row.version, "1.21.4");
    }

    #[test]
    fn a_backported_field_makes_the_key_ambiguous() {
        let compat = "8,4,8,0011111111010111011111111111111111";
        assert_eq!(find("1.25.3.2", compat), None);
        let both: Vec<_> =
            nearest("1.25.3.2").filter(|row| row.version == "1.25.3" && row.signature == compat).collect();
        assert_eq!(both.len(), 2);
        assert!(both.iter().any(|row| row.shipped_by == "Kong 3.9.3"));
    }

    #[test]
    fn unknown_is_not_found() {
        assert_eq!(find("1.22.1", "8,4,8,0"), None);
        assert_eq!(find("0.9.9", COMPAT), None);
        assert_eq!(find("", ""), None);
    }

    #[test]
    fn nearest_goes_outward() {
        let versions: Vec<_> = nearest("1.22.9").map(|row| row.version).collect();
        assert_eq!(versions.first(), Some(&"1.22.1"));
        let at = |version| versions.iter().position(|v| *v == version).unwrap();
        assert!(at("1.22.1") < at("1.22.0"));
        assert!(at("1.22.0") < at("1.21.6"));
        assert!(at("1.23.4") < at("1.24.0"));
        assert_eq!(versions.len(), all().len());
        assert_eq!(nearest("2.0.0").count(), 0);
        assert_eq!(nearest("banana").count(), 0);
        assert_eq!(nearest("1.2").count(), 0);
    }

    #[test]
    fn without_tls_there_is_no_ssl_field() {
        let row = all().iter().find(|row| row.shipped_by == "source, without TLS").unwrap();
        assert_eq!(row.layout.connection.ssl, None);
    }
}
