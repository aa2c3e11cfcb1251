//! What a client says of the answer it would like: in which coding, and which it has already.
//!
//! Pure.

/// Whether a list of codings (RFC 9110, 12.5.3) says that gzip is taken, and is liked no less than
/// the answer as it is.
///
/// Where nothing that we have is taken, the answer goes out as it is all the same: that every client
/// can read.
pub(super) fn prefers_gzip(accept_encoding: &str) -> bool {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for item in accept_encoding.split(',') {
        let (coding, parameters) = item.split_once(';').unwrap_or((item, ""));
        let Some(weight) = weight(parameters) else {
            continue;
        };
        let coding = coding.trim();
        if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            gzip = gzip.max(Some(weight));
        } else if coding.eq_ignore_ascii_case("identity") {
            identity = Some(weight);
        } else if coding == "*" {
            any = Some(weight);
        }
    }
    // What is not named has the weight of `*`; the answer as it is may always be sent, but whoever
    // names others would rather have those.
    let weight = |named: Option<u16>| named.or(any).unwrap_or(0);
    weight(gzip) > 0 && weight(gzip) >= weight(identity)
}

/// The weight in the parameters of an item, in thousandths (RFC 9110, 12.4.2). None where they are
/// something else.
fn weight(parameters: &str) -> Option<u16> {
    const MOST: u16 = 1000;
    let parameters = parameters.trim();
    if parameters.is_empty() {
        return Some(MOST);
    }
    let (name, value) = parameters.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, digits) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    if digits.len() > 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{digits:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" => (thousandths == 0).then_some(MOST),
        _ => None,
    }
}

/// Whether a list of tags has `tag` in it, compared weakly (RFC 9110, 13.1.2 and 8.8.3.2). `*` stands
/// for any.
pub(super) fn has_tag(tags: &str, tag: &str) -> bool {
    if tags.trim() == "*" {
        return true;
    }
    let mut rest = tags;
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        let strong = rest.strip_prefix("W/").unwrap_or(rest);
        // A comma may stand in a tag.
        let Some(end) = strong.strip_prefix('"').and_then(|inner| inner.find('"')) else {
            return false;
        };
        let (this, behind) = strong.split_at(end + 2);
        if this == tag {
            return true;
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_who_takes_it_and_likes_nothing_better() {
        for (list, expected) in [
            ("gzip", true),
            ("GZip", true),
            ("x-gzip", true),
            ("gzip, deflate, br, zstd", true),
            ("br;q=1.0, gzip;q=0.8, *;q=0.1", true),
            ("deflate , gzip ; q = 0.001", true),
            ("gzip;q=1.000", true),
            ("gzip;Q=1", true),
            ("*", true),
            ("*;q=0.5", true),
            ("identity;q=0, *", true),
            ("identity;q=0.5, gzip", true),
            ("identity, gzip", true),
            ("identity;q=0, gzip;q=0.1", true),
            (",, gzip,,", true),
            ("", false),
            ("br", false),
            ("deflate", false),
            ("identity", false),
            ("identity;q=0", false),
            ("*;q=0", false),
            ("gzip;q=0", false),
            ("gzip;q=0.0", false),
            ("gzip;q=0.000, *", false),
            ("gzip;q=0.5, identity", false),
            ("gzip;q=0.5, *", false),
            ("gzipped", false),
            ("gzip;level=9", false),
            ("gzip;q=", false),
            ("gzip;q=1.1", false),
            ("gzip;q=2", false),
            ("gzip;q=-1", false),
            ("gzip;q=0.0001", false),
            ("gzip;q=0.x", false),
            ("gzip;q=+1", false),
            ("gzip q=1", false),
        ] {
            assert_eq!(prefers_gzip(list), expected, "{list}");
        }
    }

    #[test]
    fn a_tag_is_found_wherever_it_stands() {
        for (tags, expected) in [
            (r#""a-1""#, true),
            (r#"W/"a-1""#, true),
            (r#""b", "a-1""#, true),
            (r#""b","a-1","c""#, true),
            (r#" , "b" ,W/"a-1""#, true),
            (r#""x,y", "a-1""#, true),
            ("*", true),
            (" * ", true),
            ("", false),
            (r#""a-1-gzip""#, false),
            (r#""a-""#, false),
            (r#""A-1""#, false),
            ("a-1", false),
            (r#""a-1"#, false),
            (r#"w/"a-1""#, false),
            (r#"*, "b""#, false),
            (r#""b, "a-1", ""#, false),
        ] {
            assert_eq!(has_tag(tags, r#""a-1""#), expected, "{tags}");
        }
    }
}
