//! Content negotiation: what `Accept` and `Content-Type` ask for.

/// How an answer is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
}

/// One media range of an `Accept` header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MediaType {
    /// `application/json`, lower case.
    pub essence: String,
    /// Parameters as written: `as`, `g`, `v`, `stream`, `pretty`, `profile`.
    pub parameters: Vec<(String, String)>,
    /// Thousandths; 1000 where not given.
    pub quality: u16,
}

impl MediaType {
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The ranges of an `Accept` header, best first; equal ones in the order written.
    pub fn accepted(header: &str) -> Vec<MediaType> {
        let mut all: Vec<MediaType> = header.split(',').filter_map(MediaType::parse).collect();
        all.sort_by(|a, b| b.quality.cmp(&a.quality));
        all
    }

    /// Reads `application/json;as=Table;q=0.5`.
    pub fn parse(text: &str) -> Option<MediaType> {
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next()?.to_ascii_lowercase();
        if essence.is_empty() {
            return None;
        }
        let mut media = MediaType { essence, parameters: Vec::new(), quality: 1000 };
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name == "q" {
                media.quality = value.parse::<f32>().map_or(1000, |q| (q.clamp(0.0, 1.0) * 1000.0) as u16);
            } else {
                media.parameters.push((name.to_owned(), value.to_owned()));
            }
        }
        Some(media)
    }

    /// Whether the range takes in `essence`.
    pub fn takes(&self, essence: &str) -> bool {
        self.essence == essence
            || self.essence == "*/*"
            || self.essence.strip_suffix("/*").is_some_and(|t| essence.split('/').next() == Some(t))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_headers() {
        let all = MediaType::accepted("text/html;q=0.5, application/json;as=Table;g=meta.k8s.io;v=v1, */*;q=0.1");
        assert_eq!(all[0].essence, "application/json");
        assert_eq!(all[0].parameter("as"), Some("Table"));
        assert_eq!(all[2].essence, "*/*");
        assert!(all[2].takes("application/yaml"));
    }
}
