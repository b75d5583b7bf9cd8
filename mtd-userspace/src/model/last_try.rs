//! Whether something that is tried again and again works.

/// How the last try of something ended. Tries are often, so only a change is news.
#[derive(Clone, Debug, Default)]
pub struct LastTry {
    failure: Option<String>,
}

/// What has changed with a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News<'a> {
    /// It fails, and did not before, or for another reason.
    Fails(&'a str),
    /// It works again.
    Works,
}

impl LastTry {
    /// Takes the end of a try: why it has failed, or `None` if it has not. Returns what is new.
    pub fn note(&mut self, failure: Option<String>) -> Option<News<'_>> {
        if self.failure == failure {
            return None;
        }
        self.failure = failure;
        Some(self.failure().map_or(News::Works, News::Fails))
    }

    /// Why the last try failed; `None`: it did not, or there was none.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_is_news() {
        let mut last = LastTry::default();
        let mut news = |failure: Option<&str>| {
            last.note(failure.map(str::to_owned)).map(|news| match news {
                News::Fails(why) => why.to_owned(),
                News::Works => "works".to_owned(),
            })
        };
        let tries = [None, Some("full"), Some("full"), Some("read-only"), None, None, Some("full")];
        let told = tries.map(|failure| news(failure).unwrap_or_default());
        assert_eq!(told, ["", "full", "", "read-only", "works", "", "full"]);
        assert_eq!(last.failure(), Some("full"));
    }
}
