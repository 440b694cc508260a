/* Largest (or least) entries over some axes. n: rank, then extents of x, then which axes are reduced, then the sign
   that makes what is wanted the largest; of gradients, whether a mask is read. */

/* Element of x that is entry t of the group of element e. */
static uint32_t sp_member(const int32_t *n, uint32_t e, uint32_t t) {
    uint32_t d, at = 0, stride = 1;
    for (d = (uint32_t)n[0]; d--;) {
        uint32_t m = (uint32_t)n[1 + d];
        if (n[1 + n[0] + (int32_t)d]) {
            at += t % m * stride;
            t /= m;
        } else {
            at += e % m * stride;
        }
        e /= m;
        stride *= m;
    }
    return at;
}

static uint32_t sp_group_size(const int32_t *n) {
    uint32_t size = 1;
    int32_t d;
    for (d = 0; d < n[0]; d++)
        if (n[1 + n[0] + d]) size *= (uint32_t)n[1 + d];
    return size;
}

static float sp_extreme_of(const int32_t *n, const sp_view *x, uint32_t b, uint32_t e) {
    uint32_t t, size = sp_group_size(n);
    float sign = (float)n[1 + 2 * n[0]], best = sign * sp_get(x, b, sp_member(n, e, 0));
    for (t = 1; t < size; t++) {
        float v = sign * sp_get(x, b, sp_member(n, e, t));
        if (v > best) best = v;
    }
    return sign * best;
}

/* Element of y that element e of x is reduced to. */
static uint32_t sp_reduced(const int32_t *n, uint32_t e) {
    uint32_t d, at = 0, stride = 1;
    for (d = (uint32_t)n[0]; d--;) {
        uint32_t m = (uint32_t)n[1 + d];
        if (!n[1 + n[0] + (int32_t)d]) {
            at += e % m * stride;
            stride *= m;
        }
        e /= m;
    }
    return at;
}

/* An element of x that is reduced to element i of y. */
static uint32_t sp_origin(const int32_t *n, uint32_t i) {
    uint32_t d, at = 0, stride = 1;
    for (d = (uint32_t)n[0]; d--;) {
        uint32_t m = (uint32_t)n[1 + d];
        if (!n[1 + n[0] + (int32_t)d]) {
            at += i % m * stride;
            i /= m;
        }
        stride *= m;
    }
    return at;
}

static void sp_extreme(const sp_args *a) {
    const sp_view *w = &sp_views[a->w[0]];
    uint32_t b, k, j;
    SP_EACH_RANGE(w, b, k) {
        uint32_t n, i = sp_range(w, k, &n);
        for (j = 0; j < n; j++)
            sp_put(w, b, i + j, sp_extreme_of(a->n, &sp_views[a->r[0]], b, sp_origin(a->n, i + j)));
    }
}

static void sp_extreme_mask(const sp_args *a) {
    const sp_view *x = &sp_views[a->r[0]], *w = &sp_views[a->w[0]];
    uint32_t b, i;
    for (b = 0; b < SP_BATCH; b++)
        for (i = 0; i < w->count; i++)
            sp_put(w, b, i, sp_get(x, b, i) == sp_extreme_of(a->n, x, b, i) ? 1.0f : 0.0f);
}

static void sp_extreme_grad(const sp_args *a) {
    const sp_view *dy = &sp_views[a->r[0]], *kept = &sp_views[a->r[1]];
    const int32_t *n = a->n;
    uint32_t q, b, k, j, t, size = sp_group_size(n);
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        SP_EACH_RANGE(w, b, k) {
            uint32_t m, i = sp_range(w, k, &m);
            for (j = 0; j < m; j++) {
                float best = n[2 + 2 * n[0]] ? 1.0f : sp_extreme_of(n, kept, b, i + j);
                uint32_t count = 0;
                for (t = 0; t < size; t++) count += sp_get(kept, b, sp_member(n, i + j, t)) == best;
                sp_put(w, b, i + j,
                       sp_get(kept, b, i + j) == best ? sp_get(dy, b, sp_reduced(n, i + j)) / (float)count : 0.0f);
            }
        }
    }
}
