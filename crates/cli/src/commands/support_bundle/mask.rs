//! Masks secrets in text. Pure.
//!
//! Nothing that svcproxy prints holds a secret; this is a second line of defence, for what it quotes:
//! flags, errors, logs.

/// What stands in place of a secret.
const MASK: &str = "***";

/// How keys end whose values are secret, in lower case and without `-`, `_` and spaces:
/// `refresh_token`, `AWS_SECRET_ACCESS_KEY`, `client-key-data`.
const ENDINGS: [&str; 13] = [
    "token",
    "password",
    "passwd",
    "passphrase",
    "secret",
    "authorization",
    "apikey",
    "accesskey",
    "privatekey",
    "secretkey",
    "keydata",
    "certificatedata",
    "cookie",
];
/// The same, for whole keys.
const KEYS: [&str; 1] = ["certificateauthoritydata"];

/// The same text without secrets: PEM blocks, tokens, passwords in URLs, and values of secret keys.
pub(super) fn mask(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut in_pem = false;
    for line in text.split_inclusive('\n') {
        if let Some(begin) = line.find("-----BEGIN ") {
            // A whole block may stand on one line, with escaped line breaks.
            let rest = line.get(begin..).unwrap_or_default();
            let before = line.get(..begin).unwrap_or_default();
            masked.push_str(&words(before));
            masked.push_str(MASK);
            in_pem = !ends_pem(rest, &mut masked);
            continue;
        }
        if in_pem {
            in_pem = !ends_pem(line, &mut masked);
            continue;
        }
        masked.push_str(&words(line));
    }
    masked
}

/// Whether a PEM block ends in this text; if so, appends what follows it.
fn ends_pem(text: &str, masked: &mut String) -> bool {
    let Some(end) = text.find("-----END ") else {
        return false;
    };
    let after = text.get(end + "-----END ".len()..).unwrap_or_default();
    let rest = after.split_once("-----").map_or("\n", |(_, rest)| rest);
    masked.push_str(&mask(rest));
    true
}

/// A line without secret words.
fn words(line: &str) -> String {
    let line = values(line);
    let is_separator = |c: char| c.is_whitespace() || "\"'`,;()[]{}<>".contains(c);
    let mut masked = String::with_capacity(line.len());
    let mut after_bearer = false;
    for piece in line.split_inclusive(is_separator) {
        let word = piece.trim_end_matches(is_separator);
        let end = piece.get(word.len()..).unwrap_or_default();
        if word.is_empty() {
            masked.push_str(end);
            continue;
        }
        let is_secret = after_bearer || is_web_token(word);
        after_bearer = ["bearer", "basic"]
            .iter()
            .any(|scheme| word.eq_ignore_ascii_case(scheme));
        match is_secret {
            true => masked.push_str(MASK),
            false => masked.push_str(&url(word)),
        }
        masked.push_str(end);
    }
    masked
}

/// `eyJ…​.eyJ…​.…`: base64 of a JSON object, twice, and a signature.
fn is_web_token(word: &str) -> bool {
    let token = word.rsplit_once('=').map_or(word, |(_, value)| value);
    let mut parts = token.split('.');
    let is_json = |part: Option<&str>| part.is_some_and(|part| part.starts_with("eyJ"));
    is_json(parts.next()) && is_json(parts.next()) && parts.next().is_some()
}

/// A URL without user and password.
fn url(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else {
        return word.to_owned();
    };
    let authority = rest.find('/').unwrap_or(rest.len());
    match rest.get(..authority).and_then(|of| of.rfind('@')) {
        Some(at) => format!("{scheme}://{MASK}{}", rest.get(at..).unwrap_or_default()),
        None => word.to_owned(),
    }
}

/// A line without the values of secret keys: `token: x`, `"token": "x"`, `--token=x`, `token=x`, also
/// after an escape (`\"token\":\"x\"`).
fn values(line: &str) -> String {
    let mut masked = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find([':', '=']) {
        let (before, after) = rest.split_at(at);
        let separator = after.get(..1).unwrap_or_default();
        masked.push_str(before);
        masked.push_str(separator);
        rest = after.get(1..).unwrap_or_default();
        if !is_secret_key(before) {
            continue;
        }
        let quoting = |c: char| matches!(c, ' ' | '"' | '\'' | '\\');
        let value = rest.trim_start_matches(quoting);
        let start = rest.len() - value.len();
        let quoted = rest.get(..start).unwrap_or_default();
        masked.push_str(quoted);
        let is_quoted = quoted.contains(['"', '\'']);
        let ends = |c: char| match is_quoted {
            true => matches!(c, '"' | '\'' | '\\' | '\n'),
            // A header's value may have a scheme before it.
            false => matches!(c, ',' | '}' | '\n' | '&'),
        };
        let end = value.find(ends).unwrap_or(value.len());
        if !value.get(..end).unwrap_or_default().trim().is_empty() {
            masked.push_str(MASK);
        }
        rest = value.get(end..).unwrap_or_default();
    }
    masked.push_str(rest);
    masked
}

/// Whether the last word before a separator is a secret key.
fn is_secret_key(before: &str) -> bool {
    let key = before.trim_end_matches([' ', '"', '\'', '\\']);
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let begin = key.rfind(|c| !is_part(c)).map_or(0, |at| {
        at + key
            .get(at..)
            .and_then(|rest| rest.chars().next())
            .map_or(1, char::len_utf8)
    });
    let key = key.get(begin..).unwrap_or_default();
    let key: String = key
        .chars()
        .filter(|c| c.is_ascii_alphanumeric())
        .map(|c| c.to_ascii_lowercase())
        .collect();
    KEYS.contains(&key.as_str()) || ENDINGS.iter().any(|ending| key.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WEB_TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlIn0.c2lnbmF0dXJl-_x";

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        for secret in [
            format!("authorization: Bearer {WEB_TOKEN}"),
            format!("error: 401 for {WEB_TOKEN}, retrying"),
            "token: hunter2".to_owned(),
            "    token: \"hunter2\"".to_owned(),
            "{\"clientConnection\":{\"token\":\"hunter2\"}}".to_owned(),
            "{\"message\":\"bad {\\\"token\\\":\\\"hunter2\\\"}\"}".to_owned(),
            "--token=hunter2".to_owned(),
            "client-key-data: hunter2==".to_owned(),
            "certificate-authority-data: hunter2".to_owned(),
            "Authorization: Basic hunter2==".to_owned(),
            "proxying by http://user:hunter2@proxy:3128/".to_owned(),
            "Authorization=hunter2&x=1".to_owned(),
            "  password: 'hunter2'".to_owned(),
            "refresh_token = hunter2".to_owned(),
            "AWS_SECRET_ACCESS_KEY=hunter2".to_owned(),
            "AWS_SESSION_TOKEN=hunter2 x".to_owned(),
            "private_key: hunter2".to_owned(),
            "got bearer hunter2".to_owned(),
            "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n".to_owned(),
            "key: \"-----BEGIN RSA PRIVATE KEY-----\\nhunter2\\n-----END RSA PRIVATE KEY-----\""
                .to_owned(),
            "x -----BEGIN CERTIFICATE-----\nhunter2 and no end\n".to_owned(),
        ] {
            let masked = mask(&secret);
            assert!(!masked.contains("hunter2"), "{secret}: {masked}");
            assert!(!masked.contains("eyJpc3Mi"), "{secret}: {masked}");
            assert!(masked.contains(MASK), "{secret}: {masked}");
        }
    }

    #[test]
    fn everything_else_stays() {
        for text in [
            "add real server 10.244.1.1:8080 of tcp [fd00::1]:80\n",
            "serviceCIDRs: 10.96.0.0/12\ntokenFile: /var/run/secrets/token\n",
            "https://10.0.0.1:6443/api?x=1\n",
            "key=value, other: \"text\"\nlast line",
            "svcproxy_sync_total{mode=\"ipvs\"} 1\n",
            "masqueradeMark: 0x4000\nsecrets: 3\n",
        ] {
            assert_eq!(mask(text), text);
        }
        let after = mask("a\n-----BEGIN X-----\nhunter2\n-----END X-----\nb\n");
        assert_eq!(after, "a\n***\nb\n");
    }

    proptest! {
        #[test]
        fn any_text_is_accepted(text in any::<String>()) {
            mask(&text);
        }

        #[test]
        fn a_token_between_any_words_is_masked(before in "[a-z:=\" ]{0,20}", after in "[a-z:=\" \n]{0,20}") {
            let masked = mask(&format!("{before} {WEB_TOKEN} {after}"));
            prop_assert!(!masked.contains(WEB_TOKEN), "{}", masked);
        }
    }
}
