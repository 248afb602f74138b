use super::*;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

fn class(index: usize, probabilities: &[f64]) -> Prediction {
    Prediction::Class { index, probabilities: probabilities.to_vec() }
}

#[test]
fn classes_by_hand() {
    let target = TargetColumn::Classes { name: "y".into(), classes: names(&["a", "b", "c", "d"]) };
    let predictions = [
        class(0, &[0.7, 0.1, 0.1, 0.1]),
        class(0, &[0.4, 0.3, 0.2, 0.1]),
        class(1, &[0.1, 0.6, 0.2, 0.1]),
        class(2, &[0.1, 0.2, 0.4, 0.3]),
    ];
    let Some(Quality::Classes(m)) = Quality::of(&target, &predictions, &Target::Classes(vec![0, 1, 1, 0].into()))
    else {
        panic!()
    };
    assert_eq!((m.accuracy, m.top_3, m.top_5), (0.5, Some(0.75), None));
    assert_eq!(m.confusion, [[1, 0, 1, 0], [1, 1, 0, 0], [0; 4], [0; 4]]);
    let shares: Vec<_> = m.classes.iter().map(|c| (c.rows, c.precision, c.recall, c.f1)).collect();
    assert_eq!(shares, [(2, 0.5, 0.5, 0.5), (2, 1.0, 0.5, 2.0 / 3.0), (0, 0.0, 0.0, 0.0), (0, 0.0, 0.0, 0.0)]);
    assert_eq!((m.precision, m.recall), (0.375, 0.25));
    // Of a: 0.7 beats both others, 0.1 ties with one and loses to the other.
    let aucs: Vec<_> = m.classes.iter().map(|c| c.roc_auc).collect();
    assert_eq!(aucs, [Some(2.5 / 4.0), Some(1.0), None, None]);
    assert_eq!(m.roc_auc, Some((2.5 / 4.0 + 1.0) / 2.0));
}

#[test]
fn labels_by_hand() {
    let target = TargetColumn::Labels { names: names(&["wet", "cold"]) };
    let predictions = [Prediction::Labels(vec![0.9, 0.2]), Prediction::Labels(vec![0.6, 0.4])];
    let truth = Target::Values { outputs: 2, values: vec![1., 0., 0., 1.].into() };
    let Some(Quality::Labels(m)) = Quality::of(&target, &predictions, &truth) else { panic!() };
    assert_eq!((m.accuracy, m.roc_auc, m.recall), (0.5, Some(1.0), 0.5));
    assert!(m.confusion.is_empty());
}

#[test]
fn numbers_by_hand() {
    let target = TargetColumn::Numbers { names: names(&["a", "b"]) };
    let predictions = [Prediction::Numbers(vec![1.0, 5.0]), Prediction::Numbers(vec![3.0, 6.0])];
    let truth = Target::Values { outputs: 2, values: vec![1., 5., 2., 5.].into() };
    let Some(Quality::Numbers(m)) = Quality::of(&target, &predictions, &truth) else { panic!() };
    assert_eq!((m.mse, m.mae, m.r2), (0.5, 0.5, Some(-0.5)));
    assert_eq!(m.targets.iter().map(|t| t.r2).collect::<Vec<_>>(), [Some(-1.0), Some(0.0)]);
    let one = Target::Values { outputs: 1, values: vec![2.0].into() };
    let target = TargetColumn::Number { name: "a".into() };
    let Some(Quality::Numbers(m)) = Quality::of(&target, &[Prediction::Number(2.0)], &one) else { panic!() };
    assert_eq!((m.mse, m.r2), (0.0, None));
}
