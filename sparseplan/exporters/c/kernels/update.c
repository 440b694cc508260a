/* Optimizers. n: elements in front of the axis that is cut, its extent, how much of it is kept, elements behind it,
   whether gradients are summed over several runs. f: see each; weight decay comes first. */

/* Element i of what is kept, in the whole parameter. */
static uint32_t sp_kept(const int32_t *n, uint32_t i) {
    uint32_t part = (uint32_t)(n[2] * n[3]), o = i / part;
    return o * (uint32_t)(n[1] * n[3]) + i % part;
}

static float sp_gradient(const sp_args *a, const sp_env *e, uint32_t i, float param) {
    float g = sp_get(&sp_views[a->r[0]], 0, i);
    if (a->n[4] && e->samples > 1.0f) g = g / e->samples;
    return a->f[0] != 0.0f ? g + a->f[0] * param : g;
}

static void sp_sgd(const sp_args *a, sp_env *e) {
    const sp_view *p = &sp_views[a->r[1]], *w = &sp_views[a->w[0]];
    uint32_t i, count = (uint32_t)(a->n[0] * a->n[2] * a->n[3]);
    for (i = 0; i < count; i++) {
        uint32_t k = sp_kept(a->n, i);
        float x = sp_get(p, 0, k);
        sp_put(w, 0, k, x - e->lr * sp_gradient(a, e, i, x));
    }
}

/* f[1]: momentum */
static void sp_momentum(const sp_args *a, sp_env *e) {
    const sp_view *p = &sp_views[a->r[1]], *w = &sp_views[a->w[0]];
    uint32_t i, count = (uint32_t)(a->n[0] * a->n[2] * a->n[3]);
    for (i = 0; i < count; i++) {
        uint32_t k = sp_kept(a->n, i);
        float x = sp_get(p, 0, k), m = a->f[1] * sp_get(&sp_views[a->r[2]], 0, i) + sp_gradient(a, e, i, x);
        sp_put(w, 0, k, x - e->lr * m);
        sp_put(&sp_views[a->w[1]], 0, i, m);
    }
}

/* f[1 ...]: the two decay rates, one less each, epsilon */
static void sp_adam(const sp_args *a, sp_env *e) {
    const sp_view *p = &sp_views[a->r[1]], *w = &sp_views[a->w[0]];
    uint32_t i, count = (uint32_t)(a->n[0] * a->n[2] * a->n[3]), t = e->number;
    double one = 1.0, two = 1.0;
    float first, second;
    for (i = 0; i < t && (one > 1e-30 || two > 1e-30); i++) {
        one *= (double)a->f[1];
        two *= (double)a->f[2];
    }
    first = (float)(1.0 - one);
    second = (float)(1.0 - two);
    for (i = 0; i < count; i++) {
        uint32_t k = sp_kept(a->n, i);
        float x = sp_get(p, 0, k), g = sp_gradient(a, e, i, x);
        float m = a->f[1] * sp_get(&sp_views[a->r[2]], 0, i) + a->f[3] * g;
        float v = a->f[2] * sp_get(&sp_views[a->r[3]], 0, i) + a->f[4] * (g * g);
        sp_put(w, 0, k, x - e->lr * ((m / first) / (sqrtf(v / second) + a->f[5])));
        sp_put(&sp_views[a->w[1]], 0, i, m);
        sp_put(&sp_views[a->w[2]], 0, i, v);
    }
}
