//! As much XML as the EC2 query protocol needs: elements and text, no attributes.

/// An element. It has children or text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub text: String,
    pub children: Vec<Node>,
}

impl Node {
    pub fn new(name: &str, children: Vec<Self>) -> Self {
        Self { name: name.to_owned(), text: String::new(), children }
    }

    pub fn leaf(name: &str, text: impl ToString) -> Self {
        Self { name: name.to_owned(), text: text.to_string(), children: Vec::new() }
    }

    /// Reads a document; none if it is not one, such as an error page in HTML.
    pub fn parse(document: &str) -> Option<Self> {
        let mut rest = document.trim_start();
        if rest.starts_with("<?") {
            rest = rest.split_once("?>")?.1;
        }
        let (node, rest) = element(rest.trim_start())?;
        rest.trim().is_empty().then_some(node)
    }

    pub fn write(&self) -> String {
        let inner: String = if self.children.is_empty() {
            escaped(&self.text)
        } else {
            self.children.iter().map(Self::write).collect()
        };
        format!("<{0}>{inner}</{0}>", self.name)
    }

    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The children of a child: the items of a set.
    pub fn items(&self, name: &str) -> &[Self] {
        self.child(name).map_or(&[], |child| &child.children)
    }

    /// The text at a path of names such as `placement/availabilityZone`, through the first item of
    /// each set; empty if it is not there.
    pub fn get(&self, path: &str) -> &str {
        path.split('/').try_fold(self, |node, name| node.child(name)).map_or("", |node| &node.text)
    }

    /// All texts at a path such as `attachmentSet/item/vpcId`, through all items of each set.
    pub fn all(&self, path: &str) -> Vec<String> {
        let mut nodes = vec![self];
        for name in path.split('/') {
            nodes = nodes
                .into_iter()
                .flat_map(|node| node.children.iter().filter(move |child| child.name == name))
                .collect();
        }
        nodes.into_iter().map(|node| node.text.clone()).collect()
    }

    /// Puts a child in the place of the one of its name, or at the end.
    pub fn put(&mut self, child: Self) {
        match self.children.iter_mut().find(|old| old.name == child.name) {
            Some(old) => *old = child,
            None => self.children.push(child),
        }
    }

    pub fn set(&mut self, name: &str, text: impl ToString) {
        self.put(Self::leaf(name, text));
    }

    pub fn remove(&mut self, name: &str) {
        self.children.retain(|child| child.name != name);
    }
}

fn element(text: &str) -> Option<(Node, &str)> {
    let (tag, mut rest) = text.strip_prefix('<')?.split_once('>')?;
    let name = tag.trim_end_matches('/').split_whitespace().next()?;
    let mut node = Node::new(name, Vec::new());
    if tag.ends_with('/') {
        return Some((node, rest));
    }
    loop {
        let (text, _) = rest.split_once('<')?;
        rest = &rest[text.len()..];
        if let Some(after) = rest.strip_prefix("</") {
            let (closed, after) = after.split_once('>')?;
            if node.children.is_empty() {
                node.text = plain(text);
            }
            return (closed.trim() == name).then_some((node, after));
        }
        let (child, after) = element(rest)?;
        node.children.push(child);
        rest = after;
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn plain(text: &str) -> String {
    let mut parts = text.split('&');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, after) = part.split_once(';').unwrap_or((part, ""));
        let number = |text: &str| {
            text.strip_prefix('x')
                .map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok())
        };
        plain.extend(match name {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            _ => name.strip_prefix('#').and_then(number).and_then(char::from_u32),
        });
        plain.push_str(after);
    }
    plain
}
