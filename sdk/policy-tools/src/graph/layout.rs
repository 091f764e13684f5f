//! Where everything stands: layers from left to right, as in Sugiyama's method.
//!
//! Workloads and channels take turns: who speaks, on what, who listens. Layers
//! come from an order in which as little as possible goes backwards, places in a
//! layer from sweeps that lessen crossings, heights from those of the neighbours.

use std::collections::BTreeMap;

use super::Graph;

/// Between two layers, in pixels.
const GAP: f64 = 58.0;
/// Between two boxes of a layer.
const SPACE: f64 = 16.0;
/// Between two lines that pass through a layer.
const LANE: f64 = 12.0;
const SWEEPS: usize = 24;

/// The size of a box.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) width: f64,
    pub(super) height: f64,
}

/// A box with its place: the middle of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) size: Size,
}

/// A line between the sides of two boxes, through these points.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) channel: usize,
    pub(super) workload: usize,
    /// From the channel to the workload; otherwise the other way.
    pub(super) arrives: bool,
    pub(super) points: Vec<(f64, f64)>,
}

#[derive(Debug)]
pub(super) struct Layout {
    /// `None` for who talks to nobody else.
    pub(super) workloads: Vec<Option<Placed>>,
    /// `None` for what only goes to oneself.
    pub(super) channels: Vec<Option<Placed>>,
    pub(super) lines: Vec<Line>,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// A box or a point of a line.
struct Node {
    layer: usize,
    size: Size,
    y: f64,
}

/// Nodes, each beside those that it is connected with one layer to the left.
struct Layers {
    nodes: Vec<Node>,
    left: Vec<Vec<usize>>,
    right: Vec<Vec<usize>>,
    /// The nodes of each layer, in order.
    order: Vec<Vec<usize>>,
}

/// Lays out a graph; the sizes are of its workloads and channels.
pub(super) fn layout(graph: &Graph, workloads: &[Size], channels: &[Size]) -> Layout {
    let count = graph.workloads.len();
    let position = order(graph);
    // Who or what stands where in the order: a channel right after the first
    // that speaks on it.
    let mut ends: Vec<(usize, usize, bool)> = Vec::new();
    let mut place: BTreeMap<usize, (usize, bool)> = BTreeMap::new();
    for workload in (0..count).filter(|w| !graph.is_alone(*w)) {
        let at = position.get(workload).copied().unwrap_or_default();
        place.insert(workload, (at, false));
    }
    for (at, channel) in graph.channels.iter().enumerate() {
        let others = channel
            .from
            .iter()
            .any(|f| channel.to.iter().any(|t| t != f));
        let first = channel.from.iter().filter_map(|f| position.get(*f)).min();
        let (true, Some(first)) = (others, first) else {
            continue;
        };
        place.insert(count + at, (*first, true));
        ends.extend(channel.from.iter().map(|f| (at, *f, false)));
        ends.extend(channel.to.iter().map(|t| (at, *t, true)));
    }
    let layer = layers_of(&place, &ends, count);
    let size = |id: usize| match id.checked_sub(count) {
        None => workloads.get(id),
        Some(channel) => channels.get(channel),
    };
    let mut layers = Layers {
        nodes: Vec::new(),
        left: Vec::new(),
        right: Vec::new(),
        order: Vec::new(),
    };
    let mut node_of: BTreeMap<usize, usize> = BTreeMap::new();
    let nothing = Size {
        width: 0.0,
        height: 0.0,
    };
    for (id, layer) in &layer {
        let node = layers.add(*layer, size(*id).copied().unwrap_or(nothing));
        node_of.insert(*id, node);
    }
    let mut paths = Vec::new();
    for (channel, workload, arrives) in ends {
        let (Some(a), Some(b)) = (node_of.get(&(count + channel)), node_of.get(&workload)) else {
            continue;
        };
        let path = layers.connect(*a, *b);
        paths.push((channel, workload, arrives, path));
    }
    layers.lessen_crossings();
    layers.set_heights();
    layers.finish(graph, &node_of, paths)
}

/// An order of the workloads in which little speaks backwards: who only speaks
/// first, who only listens last (Eades, Lin, Smyth).
fn order(graph: &Graph) -> Vec<usize> {
    let count = graph.workloads.len();
    let mut speaks: Vec<Vec<usize>> = vec![Vec::new(); count];
    let mut listens: Vec<Vec<usize>> = vec![Vec::new(); count];
    for channel in &graph.channels {
        for from in &channel.from {
            for to in channel.to.iter().filter(|to| *to != from) {
                if let Some(list) = speaks.get_mut(*from) {
                    list.push(*to);
                }
                if let Some(list) = listens.get_mut(*to) {
                    list.push(*from);
                }
            }
        }
    }
    let mut left: Vec<usize> = (0..count).collect();
    let (mut first, mut last) = (Vec::new(), Vec::new());
    while !left.is_empty() {
        let among = |list: Option<&Vec<usize>>| {
            let others = list.into_iter().flatten();
            others.filter(|w| left.contains(w)).count()
        };
        let listener = left.iter().find(|w| among(speaks.get(**w)) == 0);
        let speaker = left.iter().find(|w| among(listens.get(**w)) == 0);
        let most = left.iter().max_by_key(|w| {
            let (out, back) = (among(speaks.get(**w)), among(listens.get(**w)));
            (
                i64::try_from(out).unwrap_or(0) - i64::try_from(back).unwrap_or(0),
                usize::MAX - **w,
            )
        });
        let (chosen, at_end) = match (speaker, listener, most) {
            (Some(speaker), _, _) => (*speaker, false),
            (None, Some(listener), _) => (*listener, true),
            (None, None, Some(most)) => (*most, false),
            (None, None, None) => break,
        };
        left.retain(|w| *w != chosen);
        if at_end { &mut last } else { &mut first }.push(chosen);
    }
    first.extend(last.into_iter().rev());
    let mut position = vec![0; count];
    for (at, workload) in first.into_iter().enumerate() {
        if let Some(slot) = position.get_mut(workload) {
            *slot = at;
        }
    }
    position
}

/// The layer of each: behind everything before it in the order that it is
/// connected with.
fn layers_of(
    place: &BTreeMap<usize, (usize, bool)>,
    ends: &[(usize, usize, bool)],
    count: usize,
) -> BTreeMap<usize, usize> {
    let mut near: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (channel, workload, _) in ends {
        near.entry(count + channel).or_default().push(*workload);
        near.entry(*workload).or_default().push(count + channel);
    }
    let mut ids: Vec<usize> = place.keys().copied().collect();
    ids.sort_by_key(|id| (place.get(id).copied(), *id));
    let mut layer: BTreeMap<usize, usize> = BTreeMap::new();
    for id in ids {
        let around = near.get(&id).into_iter().flatten();
        let behind = around.filter_map(|other| layer.get(other)).max();
        // Workloads stand in even layers, channels in odd ones.
        let parity = usize::from(id >= count);
        layer.insert(id, behind.map_or(parity, |layer| layer + 1));
    }
    layer
}

impl Layers {
    fn add(&mut self, layer: usize, size: Size) -> usize {
        let node = self.nodes.len();
        self.nodes.push(Node {
            layer,
            size,
            y: 0.0,
        });
        self.left.push(Vec::new());
        self.right.push(Vec::new());
        while self.order.len() <= layer {
            self.order.push(Vec::new());
        }
        if let Some(order) = self.order.get_mut(layer) {
            order.push(node);
        }
        node
    }

    fn layer(&self, node: usize) -> usize {
        self.nodes.get(node).map_or(0, |node| node.layer)
    }

    /// Connects two nodes through a point in each layer between them.
    fn connect(&mut self, a: usize, b: usize) -> Vec<usize> {
        let (from, to) = (self.layer(a), self.layer(b));
        let point = Size {
            width: 0.0,
            height: 0.0,
        };
        let mut path = vec![a];
        let between: Vec<usize> = match from < to {
            true => (from + 1..to).collect(),
            false => (to + 1..from).rev().collect(),
        };
        for layer in between {
            path.push(self.add(layer, point));
        }
        path.push(b);
        for (one, next) in path.iter().zip(path.iter().skip(1)) {
            let (left, right) = match from < to {
                true => (*one, *next),
                false => (*next, *one),
            };
            if let Some(list) = self.right.get_mut(left) {
                list.push(right);
            }
            if let Some(list) = self.left.get_mut(right) {
                list.push(left);
            }
        }
        path
    }

    /// Sorts each layer by the middle of its neighbours, forth and back, and
    /// keeps the order with the fewest crossings.
    fn lessen_crossings(&mut self) {
        let mut best = self.order.clone();
        let mut fewest = self.crossings();
        for sweep in 0..SWEEPS {
            let forth = sweep % 2 == 0;
            let count = self.order.len();
            for step in 1..count {
                let (at, beside) = match forth {
                    true => (step, step - 1),
                    false => (count - 1 - step, count - step),
                };
                let rank = self.ranks(beside);
                let near = if forth { &self.left } else { &self.right };
                let Some(order) = self.order.get(at) else {
                    continue;
                };
                let mut keyed: Vec<(f64, usize)> = order
                    .iter()
                    .enumerate()
                    .map(|(own, node)| {
                        let around = near.get(*node).into_iter().flatten();
                        let places: Vec<f64> =
                            around.filter_map(|n| rank.get(n).copied()).collect();
                        (mean(&places).unwrap_or(own as f64), *node)
                    })
                    .collect();
                keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
                if let Some(order) = self.order.get_mut(at) {
                    *order = keyed.into_iter().map(|(_, node)| node).collect();
                }
            }
            let now = self.crossings();
            if now < fewest {
                fewest = now;
                best.clone_from(&self.order);
            }
        }
        self.order = best;
    }

    fn ranks(&self, layer: usize) -> BTreeMap<usize, f64> {
        let order = self.order.get(layer).into_iter().flatten();
        order
            .enumerate()
            .map(|(at, node)| (*node, at as f64))
            .collect()
    }

    fn crossings(&self) -> usize {
        let mut total = 0;
        for layer in 1..self.order.len() {
            let left = self.ranks(layer - 1);
            let right = self.ranks(layer);
            let mut lines: Vec<(f64, f64)> = Vec::new();
            for (node, own) in &right {
                let around = self.left.get(*node).into_iter().flatten();
                lines.extend(around.filter_map(|n| Some((*left.get(n)?, *own))));
            }
            for (at, (a, b)) in lines.iter().enumerate() {
                let rest = lines.iter().skip(at + 1);
                total += rest.filter(|(c, d)| (a - c) * (b - d) < 0.0).count();
            }
        }
        total
    }

    /// Moves each layer as near to its neighbours' heights as its order allows.
    fn set_heights(&mut self) {
        for layer in 0..self.order.len() {
            self.settle(layer, |_, own| own);
        }
        for round in 0..SWEEPS {
            let count = self.order.len();
            for step in 0..count {
                let layer = if round % 2 == 0 {
                    step
                } else {
                    count - 1 - step
                };
                let heights: Vec<f64> = self.nodes.iter().map(|node| node.y).collect();
                let (left, right) = (self.left.clone(), self.right.clone());
                self.settle(layer, |node, own| {
                    let around = left.get(node).into_iter().chain(right.get(node)).flatten();
                    let near: Vec<f64> = around.filter_map(|n| heights.get(*n).copied()).collect();
                    mean(&near).unwrap_or(own)
                });
            }
        }
    }

    /// Gives the nodes of a layer the heights that are nearest to what they want
    /// (in squares), in their order and apart from each other: pooling of what
    /// is too near.
    fn settle(&mut self, layer: usize, wanted: impl Fn(usize, f64) -> f64) {
        let Some(order) = self.order.get(layer) else {
            return;
        };
        let mut offset = 0.0;
        let mut offsets = Vec::new();
        let mut last: Option<f64> = None;
        for node in order {
            let height = self.nodes.get(*node).map_or(0.0, |n| n.size.height);
            if let Some(last) = last {
                let space = match last + height > 0.0 {
                    true => SPACE,
                    false => LANE,
                };
                offset += (last + height) / 2.0 + space;
            }
            offsets.push(offset);
            last = Some(height);
        }
        // Blocks of neighbours that move together: sum of wishes and count.
        let mut blocks: Vec<(f64, f64)> = Vec::new();
        for (node, offset) in order.iter().zip(&offsets) {
            let own = self.nodes.get(*node).map_or(0.0, |n| n.y);
            let mut block = (wanted(*node, own) - offset, 1.0);
            while let Some(before) = blocks.last().copied()
                && before.0 / before.1 > block.0 / block.1
            {
                blocks.pop();
                block = (block.0 + before.0, block.1 + before.1);
            }
            blocks.push(block);
        }
        let heights = blocks
            .iter()
            .flat_map(|(sum, count)| std::iter::repeat_n(sum / count, *count as usize));
        let moved: Vec<(usize, f64)> = order
            .iter()
            .zip(heights.zip(&offsets))
            .map(|(node, (height, offset))| (*node, height + offset))
            .collect();
        for (node, y) in moved {
            if let Some(node) = self.nodes.get_mut(node) {
                node.y = y;
            }
        }
    }

    fn finish(
        self,
        graph: &Graph,
        node_of: &BTreeMap<usize, usize>,
        paths: Vec<(usize, usize, bool, Vec<usize>)>,
    ) -> Layout {
        let mut widths = vec![0.0f64; self.order.len()];
        let (mut top, mut bottom) = (f64::MAX, f64::MIN);
        for node in &self.nodes {
            if let Some(width) = widths.get_mut(node.layer) {
                *width = width.max(node.size.width);
            }
            top = top.min(node.y - node.size.height / 2.0);
            bottom = bottom.max(node.y + node.size.height / 2.0);
        }
        if self.nodes.is_empty() {
            (top, bottom) = (0.0, 0.0);
        }
        let mut middles = Vec::new();
        let mut x = 0.0;
        for width in &widths {
            middles.push(x + width / 2.0);
            x += width + GAP;
        }
        let placed = |id: usize| {
            let node = self.nodes.get(*node_of.get(&id)?)?;
            Some(Placed {
                x: *middles.get(node.layer)?,
                y: node.y - top,
                size: node.size,
            })
        };
        let count = graph.workloads.len();
        let lines = paths.into_iter().map(|(channel, workload, arrives, path)| {
            let mut points = Vec::new();
            let layers: Vec<usize> = path.iter().map(|node| self.layer(*node)).collect();
            let rightwards = layers.first() < layers.last();
            let last = path.len().saturating_sub(1);
            for (at, node) in path.iter().enumerate() {
                let Some(node) = self.nodes.get(*node) else {
                    continue;
                };
                let middle = middles.get(node.layer).copied().unwrap_or_default();
                let half = widths.get(node.layer).copied().unwrap_or_default() / 2.0;
                let own = node.size.width / 2.0;
                let y = node.y - top;
                let right = if rightwards { 1.0 } else { -1.0 };
                match at {
                    0 => points.push((middle + right * own, y)),
                    at if at == last => points.push((middle - right * own, y)),
                    // Straight through a layer that others stand in.
                    _ => {
                        points.push((middle - right * half, y));
                        points.push((middle + right * half, y));
                    }
                }
            }
            Line {
                channel,
                workload,
                arrives,
                points,
            }
        });
        Layout {
            workloads: (0..count).map(placed).collect(),
            channels: (0..graph.channels.len())
                .map(|c| placed(count + c))
                .collect(),
            lines: lines.collect(),
            width: (x - GAP).max(0.0),
            height: bottom - top,
        }
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
